// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/constants.hpp>

#include <bit>
#include <cstdint>

namespace nbd::protocol {

/// The block sizes of an export, in bytes ("Size constraints").
struct block_sizes {
    std::uint32_t minimum = default_minimum_block;
    std::uint32_t preferred = default_preferred_block;
    std::uint32_t maximum = default_maximum_payload;  ///< largest payload of one request

    friend bool operator==(const block_sizes&, const block_sizes&) = default;
};

/// Whether block sizes keep the rules of the specification (point 76).
[[nodiscard]] constexpr bool valid(const block_sizes& b) noexcept
{
    return std::has_single_bit(b.minimum) && b.minimum <= 65536 && std::has_single_bit(b.preferred)
        && b.preferred >= b.minimum && b.preferred >= 512 && b.maximum >= b.preferred;
}

/// What the handshake tells one client about its export, and what its requests are checked against.
struct export_terms {
    std::uint64_t size = 0;   ///< bytes
    std::uint16_t flags = 0;  ///< transmission_flag bits
    block_sizes blocks;
    /// The largest size that the client was told, in bytes. A resize cut off what is past `size` and not
    /// past this.
    std::uint64_t told = 0;
    /// Meta contexts were selected: BLOCK_STATUS can be answered.
    bool block_status = false;

    [[nodiscard]] constexpr bool has(std::uint16_t flag) const noexcept
    {
        return (flags & flag) != 0;
    }
};

}  // namespace nbd::protocol
