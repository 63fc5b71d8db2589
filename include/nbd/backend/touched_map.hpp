// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace nbd {

/// Which parts of a sparse memory were ever written. Reading a page of shared memory takes it from
/// the kernel even where it is a hole, so a server that would only look must know where not to.
/// One bit for 64 KiB, or for more where the memory is so large that the map would be.
/// Thread safety: all members from any thread.
class touched_map {
public:
    explicit touched_map(std::uint64_t size)
        : shift_{std::max(16, static_cast<int>(std::bit_width(size)) - 24)},
          words_{std::make_unique<std::atomic<std::uint64_t>[]>(
              static_cast<std::size_t>((size >> shift_) / 64 + 1))}
    {
    }

    /// Bytes that one bit stands for.
    [[nodiscard]] std::uint64_t part() const noexcept { return std::uint64_t{1} << shift_; }

    [[nodiscard]] bool touched(std::uint64_t offset) const noexcept
    {
        const auto bit = offset >> shift_;
        return (words_[static_cast<std::size_t>(bit / 64)].load(std::memory_order_acquire)
                & std::uint64_t{1} << bit % 64)
            != 0;
    }
    /// Whether every part of the range was; the length is not zero.
    [[nodiscard]] bool all_touched(std::uint64_t offset, std::uint64_t length) const noexcept
    {
        for (auto at = offset;; at = (at | (part() - 1)) + 1) {
            if (!touched(at))
                return false;
            if ((at | (part() - 1)) >= offset + length - 1)
                return true;
        }
    }
    void touch(std::uint64_t offset, std::uint64_t length) noexcept
    {
        if (length == 0)
            return;
        for (auto bit = offset >> shift_; bit <= (offset + length - 1) >> shift_; ++bit) {
            auto& word = words_[static_cast<std::size_t>(bit / 64)];
            const auto mask = std::uint64_t{1} << bit % 64;
            if ((word.load(std::memory_order_relaxed) & mask) == 0)
                word.fetch_or(mask, std::memory_order_release);
        }
    }

    /// Forgets the parts that lie wholly in the range.
    void forget(std::uint64_t offset, std::uint64_t length) noexcept
    {
        const auto end = (offset + length) >> shift_;
        for (auto bit = (offset + part() - 1) >> shift_; bit < end; ++bit)
            words_[static_cast<std::size_t>(bit / 64)].fetch_and(~(std::uint64_t{1} << bit % 64),
                                                                 std::memory_order_relaxed);
    }

private:
    int shift_;
    std::unique_ptr<std::atomic<std::uint64_t>[]> words_;
};

}  // namespace nbd
