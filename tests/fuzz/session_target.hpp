// SPDX-License-Identifier: MIT
// A whole session, from the greeting to DISC, with a backend that fails and a stream that breaks.
// The first seven bytes of an input choose the circumstances; the others are what the client sends.
#pragma once

#include "connection.hpp"
#include "disks.hpp"
#include "option_limits.hpp"
#include "session_parts.hpp"
#include "whole_session.hpp"
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
        const auto add = [&](std::string name, std::uint64_t size, nbd::export_settings e) {
            served.exports.push_back(told_of(name, size, e));
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
    const circumstances how{c, {memory_stream::all, 28, 32, 1, 1000, 61}};
    expand(rest, all.input, most_bytes(how.pace));

    auto& limits = all.parts.limits;
    limits = {};
    limit_options(limits, how.small);
    limits.extents_per_reply = (how.small & 16) != 0 ? 2 : 64;
    limits.send_error_details = (how.small & 32) != 0;
    tell_limits(all.served, limits);

    how.begin(all.parts, all.memory, all.content, all.input);
    connection model{all.served, all.content, true};
    model.most_descriptors = limits.extents_per_reply;
    all.parts.stream.judge_by(model);
    nbd::session::serve<nbd::io::blocking>(all.parts.stream, all.exports, *all.parts.context,
                                           all.policy)
        .get();
    all.parts.stream.over(model);
}

}  // namespace nbd_fuzz::session_target
