// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

/// The content of verified blocks: every eight bytes encode their offset on the disk and the number
/// of the write, counted from 1.
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

/// The offset of the first wrong group of bytes; nothing if all are right.
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
