// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/request.hpp>
#include <nbd/protocol/terms.hpp>

#include <algorithm>
#include <cstdint>
#include <string_view>

namespace nbd::transmission {

/// *Returns* the command flags that a client of this export may set on this command (points 58 and
/// 65).
[[nodiscard]] constexpr std::uint16_t flags_allowed(protocol::command c,
                                                    const protocol::export_terms& terms) noexcept
{
    namespace cf = protocol::command_flag;
    namespace tf = protocol::transmission_flag;
    unsigned flags = 0;
    // "Transmission flags": with SEND_FUA the flag MUST be accepted on every command.
    if (terms.has(tf::send_fua))
        flags |= cf::fua;
    switch (c) {
    case protocol::command::read:
        if (terms.has(tf::send_df))
            flags |= cf::df;
        break;
    case protocol::command::write_zeroes:
        flags |= cf::no_hole;
        if (terms.has(tf::send_fast_zero))
            flags |= cf::fast_zero;
        break;
    case protocol::command::block_status:
        flags |= cf::req_one;
        if (terms.has(tf::block_status_payload))
            flags |= cf::payload_len;
        break;
    default:
        break;
    }
    return static_cast<std::uint16_t>(flags);
}

/// Whether the export offers a command. READ and WRITE are always offered: a WRITE to a read-only
/// export has an error of its own.
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
    case command::block_status:
        return terms.block_status;
    case command::resize:
        return terms.has(tf::send_resize);
    default:
        return false;
    }
}

/// Whether a command changes data, so that a read-only export refuses it.
[[nodiscard]] constexpr bool writes(protocol::command c) noexcept
{
    using protocol::command;
    return c == command::write || c == command::trim || c == command::write_zeroes;
}

/// Whether a request, or one call of its plan, ends at or before `size`. The computation cannot
/// overflow.
template <class Range>
[[nodiscard]] constexpr bool inside(const Range& r, std::uint64_t size) noexcept
{
    return r.length <= size && r.offset <= size - r.length;
}

/// Checks whether a request may reach the backend. *Returns* `none`, or the error value of the
/// refusal.
///
/// The order of the checks is fixed: permission, command, flags, shape, range (points 58, 65, 79,
/// 80, 87, 97).
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
    auto flags = r.flags;
    if (r.extended && r.command == command::write) {
        // "Extended request": a WRITE MUST set PAYLOAD_LEN (point 55).
        if (!r.has(protocol::command_flag::payload_len))
            return error_value::einval;
        flags &= static_cast<std::uint16_t>(~protocol::command_flag::payload_len);
    }
    if ((flags & ~flags_allowed(r.command, terms)) != 0)
        return error_value::einval;
    if (r.command == command::resize)
        return error_value::none;  // its offset is the new size
    if (r.has(protocol::command_flag::payload_len) && r.command == command::block_status)
        return error_value::none;     // the range is in the payload and is checked there
    if (r.command == command::flush)  // "offset and length MUST be zero" (point 62)
        return r.offset == 0 && r.length == 0 ? error_value::none : error_value::einval;
    if (r.command == command::block_status && r.length == 0)
        return error_value::einval;
    // "Error values": a range past the end gets ENOSPC for a write, and for bytes that a resize has
    // removed; otherwise EINVAL (points 67 and 87).
    if (!inside(r, terms.size))
        return r.command == command::write || r.command == command::write_zeroes
                || inside(r, terms.told)
            ? error_value::enospc
            : error_value::einval;
    if ((r.command == command::read || r.command == command::write)
        && r.length > terms.blocks.maximum)  // points 59 and 96
        return r.has(protocol::command_flag::df) ? error_value::eoverflow : error_value::einval;
    // "Size constraints": a misaligned request gets a clean error (points 77, 80, 100).
    if (((r.offset | r.length) & (terms.blocks.minimum - 1)) != 0)
        return error_value::einval;
    return error_value::none;
}

/// The text of a refusal, for structured replies.
[[nodiscard]] constexpr std::string_view explain(protocol::error_value refused) noexcept
{
    using protocol::error_value;
    switch (refused) {
    case error_value::eperm:
        return "the export is read-only";
    case error_value::enospc:
        return "the request ends past the end of the export";
    case error_value::eshutdown:
        return "the export is being shut down";
    case error_value::eoverflow:
        return "the request is too long for a reply in one piece";
    default:
        return "the export does not accept this request";
    }
}

/// The longest payload in bytes that is received and discarded when its WRITE is refused, so that
/// the next request can be found. A longer payload ends the connection (point 78: the limit is at
/// least 32 MiB).
[[nodiscard]] constexpr std::uint64_t longest_payload(const protocol::export_terms& terms) noexcept
{
    return std::max(terms.blocks.maximum, protocol::default_maximum_payload);
}

}  // namespace nbd::transmission
