// SPDX-License-Identifier: MIT
// A whole session, from the greeting to DISC, with a backend that fails and a stream that breaks.
// The first seven bytes of an input choose the circumstances; the others are what the client sends.
#pragma once

#include "connection.hpp"
#include "disks.hpp"
#include "session_parts.hpp"
#include <nbd/exports/export_set.hpp>
#include <nbd/io/blocking.hpp>
#include <nbd/session/serve.hpp>
#include <nbd/threading/per_client_threads.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace nbd_fuzz::session_target {

struct target {
    session_parts parts;
    disk_memory memory{parts.stream};
    nbd_model::image content{disk_memory::pristine()};
    nbd::export_set<full_disk> exports;
    nbd::per_client_threads policy;
    nbd_model::served served{.exports = {}, .default_export = "disk"};
    std::vector<std::byte> input;

    target()
    {
        const std::vector<nbd_model::served_context> contexts{
            {"base:allocation"}, {"x-fuzz:one"}, {"x-fuzz:wide", true}};
        const auto add = [&](std::string name, std::uint64_t size, nbd::export_settings e) {
            nbd_model::served_export told{.name = name,
                                          .description = e.description.value_or(name),
                                          .size = size,
                                          .tls_only = e.tls_only,
                                          .require_block_sizes = e.require_block_sizes,
                                          .contexts = contexts};
            if (e.blocks) {
                told.minimum_block = e.blocks->minimum;
                told.preferred_block = e.blocks->preferred;
                told.maximum_payload = e.blocks->maximum;
            }
            served.exports.push_back(std::move(told));
            exports.emplace(std::move(name), std::move(e), memory, size);
        };
        // In the order of LIST.
        add("block", disk_memory::bytes,
            {.blocks = nbd::protocol::block_sizes{512, 4096, 65'536}, .require_block_sizes = true});
        add("disk", disk_memory::bytes, {.description = "\xc3\xa4 disk"});
        add("huge", std::uint64_t{1} << 62,
            {.withhold = nbd::protocol::transmission_flag::send_write_zeroes});
        add("ro", disk_memory::bytes, {.read_only = true});
        add("tls", disk_memory::bytes, {.tls_only = true});
        exports.set_default("disk");
    }
};

inline void run(std::span<const std::byte> rest)
{
    static target all;
    choices c{rest};
    const auto trouble_kind = c.next();
    const auto nth = c.next();
    const auto shape = c.next();
    const auto pace = c.next(std::array<std::size_t, 6>{memory_stream::all, 28, 32, 1, 1000, 61});
    const auto fails_at = c.next();
    const auto stops_at = c.next();
    const auto small = c.next();
    expand(rest, all.input, most_bytes(pace));

    auto& limits = all.parts.limits;
    limits = {};
    limits.options_per_handshake = (small & 2) != 0 ? 3 : 32;
    limits.option_bytes = (small & 4) != 0 ? 100 : std::size_t{64} << 10;
    limits.handshake_bytes = (small & 8) != 0 ? 200 : std::size_t{128} << 10;
    limits.extents_per_reply = (small & 16) != 0 ? 2 : 64;
    limits.send_error_details = (small & 32) != 0;
    all.served.options = limits.options_per_handshake;
    all.served.option_bytes = limits.option_bytes;
    all.served.option_data = limits.handshake_bytes;

    all.memory.restore();
    all.content.restore();
    begin(all.memory, trouble_kind, nth, shape);
    all.parts.begin(all.input, pace, fails_at == 0 ? memory_stream::all : fails_at, stops_at);
    connection model{all.served, all.content, true};
    model.most_descriptors = limits.extents_per_reply;
    all.parts.stream.judge_by(model);
    nbd::session::serve<nbd::io::blocking>(all.parts.stream, all.exports, *all.parts.context,
                                           all.policy)
        .get();
    all.parts.stream.over(model);
}

}  // namespace nbd_fuzz::session_target
