// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/exports/opened_export.hpp>
#include <nbd/handshake/negotiator.hpp>
#include <nbd/io/at_once.hpp>
#include <nbd/protocol/constants.hpp>
#include <nbd/session/authorise_call.hpp>
#include <nbd/session/awaited_open.hpp>
#include <nbd/session/context.hpp>
#include <nbd/session/program_call.hpp>
#include <nbd/transmission/capabilities.hpp>
#include <nbd/vocabulary/failure.hpp>
#include <nbd/vocabulary/outcome_of.hpp>

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

// GCC 12 reports the operators new and delete of Asio's coroutine promise as a mismatch.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#endif

namespace nbd::session {

/// The handshake of one client: receives what the negotiator needs, carries out its actions and
/// sends its replies. It receives no byte beyond the present option, so no byte is buffered when
/// the meaning of the stream changes. Only the client flags are received with the header of an
/// option, because nothing else can follow them. What can be sent or received at once takes no turn
/// of the event loop.
/// *Returns* the export that the client chose, and in `agreed` what was negotiated; or nullopt, and
/// in `c.ended` the reason, unless `negotiator.starts_tls()`.
/// *Cost*: memory for one option's data (settings.option_bytes) and one reply, which is at most
/// export_listing::piece_bytes and one export's name and description, or the names of a backend's
/// contexts. Between options at most kept_bytes of each.
template <class Io, class Stream, class Exports, class Observer>
typename Io::template task<std::optional<typename Exports::opened>>
negotiate(Stream& stream, Exports& exports, handshake::negotiator& negotiator,
          handshake::agreement& agreed, context<Observer>& c)
{
    using handshake::action;
    using backend_type = typename Exports::backend_type;
    constexpr std::size_t kept_bytes = 4096;
    const auto clear = [](std::vector<std::byte>& bytes) {
        bytes.clear();
        if (bytes.capacity() > kept_bytes)
            bytes = std::vector<std::byte>{};  // `= {}` would keep the memory
    };
    std::vector<std::byte> received;
    std::size_t ahead = 0;  // bytes of the next header that are in `received` already
    // Kept until the client asks for another export: several options need the same one.
    std::optional<typename Exports::opened> opened;
    auto opened_for = open_purpose::information;
    auto next = negotiator.first_action();
    if (!negotiator.secured())
        c.deadline.arm(c.limits.handshake_deadline, errc::handshake_timeout);
    for (;;) {
        if (next == action::list_exports) {
            const auto& position = negotiator.list_position();
            const auto answer = [&](std::string_view name, std::string_view description) {
                return negotiator.list_export(name, description);
            };
            const auto end_page = [&](bool complete) {
                next = negotiator.continue_list(complete);
                if (!complete && next != action::list_exports)
                    notify::at_option_error(c.observer, c.who, negotiator.option(),
                                            failure{errc::too_many_exports});
            };
            if (c.over()) {
                negotiator.shut_down();
                next = negotiator.continue_list(true);
            } else if (const auto list = exports.list();
                       (c.authorise != nullptr ? !position : list != nullptr)
                       && !negotiator.may_call()) {
                next = negotiator.export_refused(errc::too_many_options);
            } else if (list || c.authorise != nullptr) {
                name_list page{position, negotiator.secured()};
                exports.visit_after(
                    position,
                    [&](std::string_view name, std::string_view text) {
                        return page.add(name, text);
                    },
                    negotiator.secured());
                failure why;
                if (list) {
                    program_call<Io, Stream, std::monostate> call{stream};
                    const auto start = [&](const auto& on) { (*list)(on, call, page); };
                    const typename context<Observer>::program_scope calls{c};
                    co_await call.run(start);
                    why = std::move(call.why);
                }
                if (why) {
                    notify::at_option_error(c.observer, c.who, negotiator.option(), why);
                    next = negotiator.export_refused(why.code);
                } else {
                    bool complete = !page.more();
                    for (const auto& listed : page.names()) {
                        if (c.over()) {
                            complete = false;
                            break;
                        }
                        if (c.authorise != nullptr) {
                            authorise_call<Io, Stream, Observer> call{stream, c, listed.first};
                            co_await call.decided();
                            if (call.refusal()) {
                                negotiator.skip_export(listed.first);
                                continue;
                            }
                        }
                        if (!answer(listed.first, listed.second)) {
                            complete = false;
                            break;
                        }
                    }
                    end_page(complete);
                }
            } else {
                end_page(exports.visit_after(position, answer, negotiator.secured()));
            }
        } else if (next == action::open_export) {
            failure why;
            bool reads_only = false;
            auto found = exports.registered(negotiator.requested_name());
            const auto name =
                found ? found->name : exports.name_to_look_up(negotiator.requested_name());
            if (c.authorise != nullptr) {  // first, so that a stranger causes no other call
                authorise_call<Io, Stream, Observer> call{stream, c, name};
                co_await call.decided();
                why = call.refusal();
                reads_only = call.reads_only();
                // The export may have been changed or removed meanwhile.
                found = why ? nullptr : exports.registered(name);
                if (found && found->name != name)
                    found = nullptr;
            }
            // A refused export counts as one that is looked up, so that a client cannot tell.
            if (const auto lookup = found ? nullptr : exports.lookup();
                lookup && !negotiator.may_call()) {
                why = errc::too_many_options;
            } else if (lookup && !why) {
                const typename context<Observer>::program_scope calls{c, name};
                program_call<Io, Stream, found_export<backend_type>> call{stream};
                const auto start = [&](const auto& on) { (*lookup)(on, call, name, c.who); };
                co_await call.run(start);
                why = std::move(call.why);
                if (!why)
                    why = outcome_of(
                        [&] { found = exports.looked_up(name, std::move(call.result)); });
            }
            const auto purpose = negotiator.purpose();
            if (opened
                && (!opened->is(found)
                    || (opens_for_purpose<backend_type> && purpose > opened_for)))
                opened.reset();
            if (why) {
                // The client is not authorised, or the lookup has failed.
            } else if (!found) {
                why = errc::unknown_export;
            } else if (negotiator.needs_tls(found->settings.tls_only)) {
                why = errc::tls_required;
            } else if (!opened && !negotiator.may_open()) {
                why = errc::too_many_options;
            } else if (!opened) {
                const typename context<Observer>::program_scope calls{c, found->name};
                opened_for = purpose;
                if constexpr (awaits_open<backend_type>) {
                    awaited_open<Io, Stream, Exports, Observer> call{stream, c};
                    if (auto made = co_await call.run(found, purpose, why))
                        opened.emplace(std::move(*made));
                } else if (auto made = exports::open(found, c.who, purpose, why)) {
                    opened.emplace(std::move(*made));
                }
            }
            if (why) {
                notify::at_option_error(c.observer, c.who, negotiator.option(), why);
                next = negotiator.export_refused(why.code);
            } else {
                auto info = opened->info();
                if (reads_only)
                    info.terms.flags = transmission::without_writes(info.terms.flags);
                next = negotiator.export_opened(info);
            }
        }

        if (next == action::transmit)
            c.admit(opened->info().name, opened->in_set());
        auto& reply = negotiator.reply();
        c.waiting.store(true, std::memory_order_relaxed);
        for (std::size_t sent = 0; sent < reply.size();) {
            const auto rest = boost::asio::buffer(reply.data() + sent, reply.size() - sent);
            io::transfer result{boost::asio::error::would_block, 0};
            if (next != action::list_exports)  // other clients may run between the pieces of a list
                result = io::write_at_once(stream, rest);
            if (std::get<0>(result) == boost::asio::error::would_block)
                result = co_await Io::write_some(stream, rest);
            const auto [error, n] = result;
            if (error) {
                // A client need not wait for the answer to ABORT (point 29). A client that sends
                // nothing only tests whether the server listens.
                const bool clean = next == action::close || negotiator.untouched();
                c.ended = clean ? negotiator.close_reason() : std::error_code{error};
                co_return std::nullopt;
            }
            sent += n;
        }
        clear(reply);

        if (next == action::list_exports)
            continue;
        if (next == action::close) {
            c.ended = negotiator.close_reason();
            co_return std::nullopt;
        }
        if (next == action::start_tls)
            co_return std::nullopt;
        if (next == action::transmit) {
            c.deadline.disarm();
            agreed = negotiator.agreed();
            notify::at_export_opened(c.observer, c.who, opened->info().name, agreed.terms);
            co_return opened;
        }

        const auto needed = negotiator.bytes_needed();
        const bool between = negotiator.between_options() || negotiator.untouched();
        if (ahead == 0)
            clear(received);
        received.resize(needed + (negotiator.untouched() ? protocol::option_header_bytes : 0));
        auto got = std::exchange(ahead, 0);
        while (got < needed) {
            const auto rest = boost::asio::buffer(received.data() + got, received.size() - got);
            io::transfer result{boost::asio::error::would_block, 0};
            if (!between || got != 0)  // most clients send it with what was received before
                result = io::read_at_once(stream, rest);
            if (std::get<0>(result) == boost::asio::error::would_block)
                result = co_await Io::read_some(stream, rest);
            const auto [error, n] = result;
            if (error) {
                if (got == 0 && negotiator.untouched())
                    c.ended = {};
                else if (error != boost::asio::error::eof)
                    c.ended = error;
                else if (got != 0 || !negotiator.between_options())
                    c.ended = errc::cut_short;
                co_return std::nullopt;
            }
            got += n;
        }
        if (c.stopping.load(std::memory_order_relaxed))
            negotiator.shut_down();
        c.waiting.store(false, std::memory_order_relaxed);
        const bool header = negotiator.between_options();
        next = negotiator.process(std::span{received}.first(needed));
        if (got > needed) {
            ahead = got - needed;
            received.erase(received.begin(),
                           received.begin() + static_cast<std::ptrdiff_t>(needed));
        }
        if (header && negotiator.close_reason() != errc::bad_option_magic)
            notify::at_option(c.observer, c.who, negotiator.option());
    }
}

}  // namespace nbd::session

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
