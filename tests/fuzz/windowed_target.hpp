// SPDX-License-Identifier: MIT
// A whole session over the windowed loop: many requests in flight on a backend with callbacks, and
// a program that looks up exports and authorises clients, late. What happens next is the choice of
// the input: one byte that counts them, and so many bytes, come after the ten that choose the
// circumstances. The others are what the client sends.
#pragma once

#include "connection.hpp"
#include "option_limits.hpp"
#include "session_parts.hpp"
#include "waiting.hpp"
#include "whole_session.hpp"
#include <nbd/exports/authorisation.hpp>
#include <nbd/exports/export_set.hpp>
#include <nbd/io/asynchronous.hpp>
#include <nbd/session/serve.hpp>
#include <nbd/threading/per_client_threads.hpp>

#include <boost/asio/co_spawn.hpp>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace nbd_fuzz::windowed_target {

/// What the functions of the program do.
struct program {
    bool authorises = false;  ///< refuses "huge" and "ro", lets clients only read "block"
    bool late = false;        ///< answers are awaited
    bool finds = false;       ///< looks up "dyn"
    bool fails = false;       ///< the lookup fails
};

struct target {
    boost::asio::io_context context{1};
    agenda all;
    session_parts parts;
    waiting_stream stream{context, parts.stream, all};
    disk_memory memory{parts.stream};
    waiting_memory waiting{memory, all};
    nbd_model::image content{disk_memory::pristine()};
    nbd::export_set<waiting_disk> exports;
    nbd::per_client_threads policy;
    program does;
    nbd::authorisation authorise{[this](const nbd::client& who) { return decide(who); }};
    std::vector<std::byte> input;
    /// As the client sees them: `does.authorises` + 2 * `does.finds`.
    std::array<nbd_model::served, 4> served;

    target()
    {
        for (auto& s : served)
            s.default_export = "disk";
        add("block", disk_memory::bytes,
            {.blocks = nbd::protocol::block_sizes{512, 4096, 65'536}, .require_block_sizes = true});
        add("disk", disk_memory::bytes, {});
        tell("dyn", disk_memory::bytes, {}, 2);
        add("huge", std::uint64_t{1} << 62,
            {.withhold = nbd::protocol::transmission_flag::send_write_zeroes});
        add("ro", disk_memory::bytes, {.read_only = true});
        exports.set_default("disk");
        exports.on_lookup(
            [this, found = std::make_shared<waiting_disk>(waiting, disk_memory::bytes)](
                std::string_view name, const nbd::client&) {
                return look_up(found, name == "dyn");
            });
    }

private:
    void add(std::string name, std::uint64_t size, nbd::export_settings e)
    {
        tell(name, size, e, 0);
        exports.emplace(std::move(name), std::move(e), waiting, size);
    }
    void tell(const std::string& name, std::uint64_t size, const nbd::export_settings& e,
              std::size_t needs)
    {
        auto told = told_of(name, size, e);
        told.unlisted = needs != 0;
        for (std::size_t i = 0; i < served.size(); ++i)
            if ((i & needs) == needs && ((i & 1) == 0 || (name != "huge" && name != "ro")))
                served[i].exports.push_back(told);
    }
    boost::asio::awaitable<nbd::decision, executor> decide(const nbd::client& who)
    {
        const bool refuses = who.export_name == "huge" || who.export_name == "ro";
        const bool limits = who.export_name == "block";
        if (does.late)
            co_await all.turn();
        co_return refuses ? nbd::permission::refused
            : limits      ? nbd::permission::read_only
                          : nbd::permission::full;
    }
    boost::asio::awaitable<std::shared_ptr<waiting_disk>, executor>
    look_up(std::shared_ptr<waiting_disk> found, bool right)
    {
        if (does.late)
            co_await all.turn();
        if (does.fails)
            throw std::system_error{EIO, std::generic_category()};
        co_return does.finds&& right ? found : nullptr;
    }
};

/// Lets happen what the input chooses until the session is over.
inline void drive(target& t, const bool& over)
{
    for (unsigned waits = 0;;) {
        t.context.restart();
        t.context.poll();
        if (!t.all.empty()) {
            waits = 0;
            t.all.next();
        } else if (over) {
            return;
        } else if (++waits == 20) {
            report(nbd_model::difference{"the session waits for nothing"});
        } else {  // for a timer
            t.context.restart();
            t.context.run_one_for(std::chrono::milliseconds{200});
        }
    }
}

inline void run(std::span<const std::byte> rest)
{
    using nbd::session::serve;
    using io = nbd::io::asynchronous<executor>;
    static target t;
    choices c{rest};
    const auto form = c.next();
    const circumstances how{c, {memory_stream::all, 28, 32, 7, 1000, 61}};
    const auto program = c.next();
    const auto contexts = c.next();
    const auto order = rest.first(std::min<std::size_t>(c.next(), rest.size()));
    rest = rest.subspan(order.size());
    expand(rest, t.input, most_bytes(how.pace));

    auto& limits = t.parts.limits;
    limits = {};
    limits.requests_in_flight = std::array<std::size_t, 4>{16, 1, 2, 3}[how.small & 3];
    limits.serialize_overlaps = (how.small & 4) != 0;
    limits.extents_per_reply = (how.small & 8) != 0 ? 2 : 64;
    limits.send_error_details = (how.small & 16) != 0;
    t.does = {.authorises = (program & 1) != 0,
              .late = (program & 2) != 0,
              .finds = (program & 4) != 0,
              .fails = (program & 8) != 0};
    const bool finds = t.does.finds && !t.does.fails;
    auto& served = t.served[(t.does.authorises ? 1U : 0U) + (finds ? 2U : 0U)];
    tell_limits(served, limits);

    t.waiting.some_at_once = (form & 64) != 0;
    t.waiting.early = (form & 128) != 0;
    t.all.begin(order);
    t.stream.begin();
    how.begin(t.parts, t.memory, t.content, t.input);
    auto& context = *t.parts.context;
    context.authorise = t.does.authorises ? &t.authorise : nullptr;

    connection model{served, t.content, false};
    model.most_descriptors = limits.extents_per_reply;
    if (t.does.fails)
        model.open_fails();
    model.calls_program();
    if ((form & 4) != 0) {
        // Another program has made the handshake.
        constexpr std::array names{"disk", "block", "huge", "ro", "dyn"};
        auto begun = std::make_unique<nbd::established>();
        begun->export_name = names[(form >> 3 & 7) % names.size()];
        begun->structured_replies = (form & 3) == 1;
        begun->extended_headers = (form & 2) != 0;
        constexpr std::array all{"base:allocation", "x-fuzz:one", "x-fuzz:wide"};
        for (std::uint32_t i = 0; i < all.size(); ++i)
            if ((contexts >> i & 1) != 0)
                begun->meta_contexts.push_back({all[i], i + 5});
        begun->opened = [&model, agreed = *begun](std::error_code why, const auto& terms) {
            nbd_model::terms told{.size = terms.size,
                                  .flags = terms.flags,
                                  .minimum_block = terms.blocks.minimum,
                                  .maximum_payload = terms.blocks.maximum,
                                  .form = agreed.extended_headers ? nbd_model::reply_form::extended
                                      : agreed.structured_replies
                                      ? nbd_model::reply_form::structured
                                      : nbd_model::reply_form::simple};
            for (const auto& each : agreed.meta_contexts)
                told.contexts.push_back({each.id, each.name == "base:allocation"});
            why ? model.begins_nothing() : model.begin(std::move(told));
        };
        context.begun = std::move(begun);
    }
    t.parts.stream.judge_by(model);
    bool over = false;
    boost::asio::co_spawn(t.context.get_executor(),
                          serve<io>(t.stream, t.exports, context, t.policy),
                          [&over](const std::exception_ptr& thrown) {
                              over = true;
                              if (thrown)
                                  report(nbd_model::difference{"the session throws"});
                          });
    drive(t, over);
    t.parts.stream.over(model);
}

}  // namespace nbd_fuzz::windowed_target
