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

/// Whether block sizes satisfy the rules of the specification (point 76).
[[nodiscard]] constexpr bool valid(const block_sizes& b) noexcept
{
    return std::has_single_bit(b.minimum) && b.minimum <= 65536 && std::has_single_bit(b.preferred)
        && b.preferred >= b.minimum && b.preferred >= 512 && b.maximum >= b.preferred;
}

/// The terms that the handshake tells one client about its export. The client's requests are
/// checked against them.
struct export_terms {
    std::uint64_t size = 0;   ///< bytes
    std::uint16_t flags = 0;  ///< transmission_flag bits
    block_sizes blocks;
    /// The largest size in bytes that the client was told. If it is more than `size`, a resize has
    /// removed the bytes between the two.
    std::uint64_t told = 0;
    /// Whether meta contexts were selected, so that BLOCK_STATUS can be answered.
    bool block_status = false;

    [[nodiscard]] constexpr bool has(std::uint16_t flag) const noexcept
    {
        return (flags & flag) != 0;
    }
};

}  // namespace nbd::protocol
