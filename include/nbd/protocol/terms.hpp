// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/constants.hpp>

#include <bit>
#include <cstdint>

namespace nbd::protocol {

/// The three sizes of "Size constraints", in bytes.
struct block_sizes {
    std::uint32_t minimum = default_minimum_block;
    std::uint32_t preferred = default_preferred_block;
    std::uint32_t maximum = default_maximum_payload;  ///< largest payload of one request

    friend bool operator==(const block_sizes&, const block_sizes&) = default;
};

/// The rules of point 76: powers of two where they must be, and in order.
[[nodiscard]] constexpr bool valid(const block_sizes& b) noexcept
{
    return std::has_single_bit(b.minimum) && b.minimum <= 65536 && std::has_single_bit(b.preferred)
        && b.preferred >= b.minimum && b.preferred >= 512 && b.maximum >= b.preferred;
}

/// What the handshake promises one client for the whole of its transmission phase: the payloads of
/// INFO_EXPORT and INFO_BLOCK_SIZE.
struct export_terms {
    std::uint64_t size = 0;   ///< bytes
    std::uint16_t flags = 0;  ///< transmission_flag bits
    block_sizes blocks;
    /// The largest size that the client was told of. What lies past `size`, but not past this, was cut
    /// off by a resize.
    std::uint64_t told = 0;
    /// Contexts were selected, so that BLOCK_STATUS can be answered.
    bool block_status = false;

    [[nodiscard]] constexpr bool has(std::uint16_t flag) const noexcept
    {
        return (flags & flag) != 0;
    }
};

}  // namespace nbd::protocol
