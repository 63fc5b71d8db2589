// SPDX-License-Identifier: MIT
// The transmission phase over the in-order loop. The first eight bytes of an input choose, see
// `circumstances`; the others are the client's requests.
#pragma once

#include "disks.hpp"
#include "session_parts.hpp"
#include "transmission_model.hpp"
#include <nbd/exports/export_set.hpp>
#include <nbd/handshake/agreement.hpp>
#include <nbd/handshake/meta_context.hpp>
#include <nbd/io/blocking.hpp>
#include <nbd/session/in_order/in_order_loop.hpp>
#include <nbd/transmission/capabilities.hpp>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace nbd_fuzz::transmission_target {

using nbd::protocol::reply_style;

/// What the first bytes of an input choose.
struct circumstances {
    explicit circumstances(choices c)
        : form{c.next()}, abilities{c.next()}, place{c.next()}, contexts{c.next()},
          trouble_kind{c.next()}, nth{c.next()}, at_a_time{c.next()}, end{c.next()}
    {
    }
    unsigned form;          ///< bits 0-1: simple, structured, extended; bits 2-3: the kind of disk
    unsigned abilities;     ///< bits of abilities that are withheld
    unsigned place;         ///< bits 0-2: block sizes; bits 3-4: the size
    unsigned contexts;      ///< bits 0-2: selected contexts; bits 3-5: the layout of extents
    unsigned trouble_kind;  ///< bits 0-2: how a call fails; bits 3-7: with which error
    unsigned nth;           ///< which call fails
    unsigned at_a_time;     ///< how many bytes arrive at a time
    unsigned end;           ///< below 128: the operation of the stream that fails; else: that stops
};

constexpr std::array<std::uint64_t, 4> sizes{disk_memory::bytes, 12'288,
                                             (std::uint64_t{1} << 33) + 65'536, 0};
constexpr std::array<nbd::protocol::block_sizes, 5> blocks{{
    {1, 4096, 32U << 20},
    {512, 4096, 65'536},
    {4096, 4096, 1U << 20},
    {1, 512, 512},
    {65'536, 65'536, 131'072},
}};

/// What is made once: the exports of one kind of disk, of all sizes.
template <class Disk>
class target {
public:
    explicit target(disk_memory& m) : memory_{m}
    {
        for (std::size_t i = 0; i < sizes.size(); ++i)
            exports_.emplace(std::to_string(i), {.allow_resize = true}, m, sizes[i]);
    }

    void run(session_parts& parts, const circumstances& how, nbd_model::image& content)
    {
        const auto which = how.place >> 3 & 3;
        const auto found = exports_.registered(std::to_string(which));
        nbd::failure why;
        auto opened =
            nbd::exports::open(found, parts.context->who, nbd::open_purpose::transmission, why);
        const auto agreed = agree(opened->info(), how);
        nbd_model::terms told{.size = agreed.terms.size,
                              .flags = agreed.terms.flags,
                              .minimum_block = agreed.terms.blocks.minimum,
                              .maximum_payload = agreed.terms.blocks.maximum,
                              .form = form_of(agreed.style),
                              .contexts = {},
                              .most_descriptors = 64};
        for (const auto& c : agreed.contexts)
            told.contexts.push_back(
                {c.id,
                 opened->info().contexts[c.index].name == nbd::protocol::base_allocation.name});
        nbd_model::transmission model{std::move(told), content, true};
        parts.stream.judge_by(model);
        {
            nbd::session::in_order_loop<nbd::io::blocking, memory_stream,
                                        typename nbd::export_set<Disk>::opened, nbd::silent>
                loop{parts.stream, *opened, agreed, *parts.context};
            loop.run().get();
        }
        parts.stream.over(model);
        memory_.begin(trouble::none, 0, 0, layout::exact);
        if constexpr (nbd::has_resize<Disk>)
            if (opened->size() != sizes[which])
                std::ignore = exports_.resize(std::to_string(which), sizes[which]);
    }

private:
    static nbd_model::reply_form form_of(reply_style s)
    {
        return s == reply_style::simple  ? nbd_model::reply_form::simple
            : s == reply_style::extended ? nbd_model::reply_form::extended
                                         : nbd_model::reply_form::structured;
    }

    static nbd::handshake::agreement agree(const nbd::handshake::export_info& info,
                                           const circumstances& how)
    {
        namespace tf = nbd::protocol::transmission_flag;
        auto terms = info.terms;
        const auto bit = [&how](unsigned n) { return (how.abilities >> n & 1) == 0; };
        terms.flags = nbd::transmission::available(terms.flags,
                                                   {.read_only = !bit(0),
                                                    .flush = bit(1),
                                                    .fua = bit(2),
                                                    .trim = bit(3),
                                                    .write_zeroes = bit(4),
                                                    .fast_zero = bit(5),
                                                    .cache = bit(6),
                                                    .resize = bit(7),
                                                    .rotational = (how.form & 128) != 0});
        terms.flags = nbd::transmission::offered(
            terms.flags,
            {.read_only = (how.form & 16) != 0,
             .rotational = (how.form & 32) != 0,
             .withhold = static_cast<std::uint16_t>(
                 (how.form & 64) != 0 ? tf::send_write_zeroes | tf::send_flush : 0),
             .allow_resize = true});
        terms.blocks = blocks[(how.place & 7) % blocks.size()];
        const auto style = std::array{reply_style::simple, reply_style::structured,
                                      reply_style::extended, reply_style::extended}[how.form & 3];
        std::vector<nbd::protocol::selected_context> selected;
        for (std::size_t i = 0; i < info.contexts.size(); ++i)
            if ((how.contexts >> i & 1) != 0 && nbd::handshake::usable(info.contexts[i], style))
                selected.push_back({.id = static_cast<std::uint32_t>(10 * i + 1), .index = i});
        return nbd::handshake::agree(terms, style, std::move(selected));
    }

    disk_memory& memory_;
    nbd::export_set<Disk> exports_;
};

struct all_targets {
    session_parts parts;
    disk_memory memory{parts.stream};
    nbd_model::image content{disk_memory::pristine()};
    target<full_disk> full{memory};
    target<lending_disk> lending{memory};
    target<handling_disk> handling{memory};
    std::vector<std::byte> input;
};

inline void run(std::span<const std::byte> rest)
{
    static all_targets all;
    const circumstances how{choices{rest}};
    constexpr std::array<std::size_t, 6> paces{memory_stream::all, 28, 32, 1, 1000, 61};
    const auto pace = paces[how.at_a_time % paces.size()];
    expand(rest, all.input, most_bytes(pace));
    all.parts.limits.extents_per_reply = 64;
    all.memory.restore();
    all.content.restore();
    begin(all.memory, how.trouble_kind, how.nth, how.contexts >> 3 & 7);
    all.parts.begin(all.input, pace, how.end != 0 && how.end < 128 ? how.end : memory_stream::all,
                    how.end < 128 ? 0 : how.end - 127);
    switch ((how.form >> 2 & 3) % 3) {
    case 1:
        return all.lending.run(all.parts, how, all.content);
    case 2:
        return all.handling.run(all.parts, how, all.content);
    default:
        return all.full.run(all.parts, how, all.content);
    }
}

}  // namespace nbd_fuzz::transmission_target
