// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/request.hpp>
#include <nbd/protocol/terms.hpp>

#include <algorithm>
#include <cstdint>

namespace nbd::transmission {

/// The command flags that a client of this export may set on this command (points 58 and 65).
[[nodiscard]] constexpr std::uint16_t flags_allowed(protocol::command c,
                                                    const protocol::export_terms& terms) noexcept
{
    namespace cf = protocol::command_flag;
    namespace tf = protocol::transmission_flag;
    unsigned flags = 0;
    // "Transmission flags": with SEND_FUA the flag MUST be accepted on every command.
    if (terms.has(tf::send_fua))
        flags |= cf::fua;
    if (c == protocol::command::write_zeroes) {
        flags |= cf::no_hole;
        if (terms.has(tf::send_fast_zero))
            flags |= cf::fast_zero;
    }
    return static_cast<std::uint16_t>(flags);
}

/// Whether a command is one that the export offers. READ and WRITE always are: a WRITE to a
/// read-only export has its own error.
[[nodiscard]] constexpr bool offered(protocol::command c,
                                     const protocol::export_terms& terms) noexcept
{
    using protocol::command;
    namespace tf = protocol::transmission_flag;
    switch (c) {
    case command::read:
    case command::write:
    case command::disc:
        return true;
    case command::flush:
        return terms.has(tf::send_flush);
    case command::trim:
        return terms.has(tf::send_trim);
    case command::cache:
        return terms.has(tf::send_cache);
    case command::write_zeroes:
        return terms.has(tf::send_write_zeroes);
    default:
        return false;
    }
}

/// A command that changes data, and so needs permission.
[[nodiscard]] constexpr bool writes(protocol::command c) noexcept
{
    using protocol::command;
    return c == command::write || c == command::trim || c == command::write_zeroes;
}

/// Whether a request may reach the backend: `none`, or the error value that refuses it.
///
/// The order is fixed: permission, command, flags, shape, range (points 58, 65, 79, 80, 87, 97).
/// All arithmetic is in 64 bits and cannot wrap.
[[nodiscard]] constexpr protocol::error_value admit(const protocol::request& r,
                                                    const protocol::export_terms& terms) noexcept
{
    using protocol::command;
    using protocol::error_value;
    // "Error values": write-like commands on a read-only export get EPERM (point 87).
    if (writes(r.command) && terms.has(protocol::transmission_flag::read_only))
        return error_value::eperm;
    if (!offered(r.command, terms))
        return error_value::einval;
    if ((r.flags & ~flags_allowed(r.command, terms)) != 0)
        return error_value::einval;
    if (r.command == command::flush)  // "offset and length MUST be zero" (point 62)
        return r.offset == 0 && r.length == 0 ? error_value::none : error_value::einval;
    // "Error values": past the end, ENOSPC for what would write data, EINVAL for the others.
    if (r.length > terms.size || r.offset > terms.size - r.length)
        return r.command == command::write || r.command == command::write_zeroes
                 ? error_value::enospc
                 : error_value::einval;
    if ((r.command == command::read || r.command == command::write)
        && r.length > terms.blocks.maximum)
        return error_value::einval;  // point 96
    // "Size constraints": a misaligned request gets a clean error (points 77, 80, 100).
    if (((r.offset | r.length) & (terms.blocks.minimum - 1)) != 0)
        return error_value::einval;
    return error_value::none;
}

/// The longest payload that is consumed to keep the stream in step when its WRITE is refused. What is
/// longer is taken for an attack and ends the connection (point 78: not below 32 MiB).
[[nodiscard]] constexpr std::uint64_t longest_payload(const protocol::export_terms& terms) noexcept
{
    return std::max(terms.blocks.maximum, protocol::default_maximum_payload);
}

}  // namespace nbd::transmission
