// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

/// What blocks hold whose contents are checked: every eight bytes say where on the disk they are and
/// which write, counted from 1, put them there.
namespace bench {

inline constexpr std::size_t stamp_bytes = 8;

[[nodiscard]] inline std::uint64_t stamp(std::uint64_t offset, std::uint64_t generation) noexcept
{
    constexpr std::uint64_t odd = 0x9e3779b97f4a7c15;
    return offset * odd ^ generation;
}

/// Fills a block that begins at `offset`; its size is a multiple of stamp_bytes.
inline void put_stamps(std::span<std::byte> block, std::uint64_t offset,
                       std::uint64_t generation) noexcept
{
    for (std::size_t at = 0; at < block.size(); at += stamp_bytes) {
        const auto value = stamp(offset + at, generation);
        std::memcpy(block.data() + at, &value, stamp_bytes);
    }
}

/// Where on the disk the first wrong byte group is; nothing if all is as it should.
[[nodiscard]] inline std::optional<std::uint64_t> first_wrong(std::span<const std::byte> block,
                                                              std::uint64_t offset,
                                                              std::uint64_t generation) noexcept
{
    for (std::size_t at = 0; at < block.size(); at += stamp_bytes) {
        const auto value = stamp(offset + at, generation);
        if (std::memcmp(block.data() + at, &value, stamp_bytes) != 0)
            return offset + at;
    }
    return std::nullopt;
}

}  // namespace bench
