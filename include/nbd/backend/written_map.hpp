// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace nbd {

/// Records which parts of a sparse memory were written. Reading a page of shared memory through its
/// mapping commits the page even where it is a hole, so the backend must know which pages not to
/// read. One bit stands for 4 KiB, or for more in a memory larger than 64 GiB, to limit the size of
/// the map.
/// *Thread safety*: all members are safe from any thread.
class written_map {
public:
    static constexpr std::uint64_t least_part = 4096;

    explicit written_map(std::uint64_t size)
        : shift_{std::max(std::countr_zero(least_part),
                          static_cast<int>(std::bit_width(size - (size != 0))) - 24)},
          words_{std::make_unique<std::atomic<std::uint64_t>[]>(
              static_cast<std::size_t>((size >> shift_) / 64 + 1))}
    {
    }

    /// The bytes that one bit stands for, a power of two.
    [[nodiscard]] std::uint64_t part() const noexcept { return std::uint64_t{1} << shift_; }

    [[nodiscard]] bool touched(std::uint64_t offset) const noexcept
    {
        return all_touched(offset, 1);
    }
    /// Whether every part of the range was written; `length` is not zero.
    [[nodiscard]] bool all_touched(std::uint64_t offset, std::uint64_t length) const noexcept
    {
        return each_word(offset >> shift_, (offset + length - 1) >> shift_,
                         [](const word& w, std::uint64_t mask) {
                             return (w.load(std::memory_order_acquire) & mask) == mask;
                         });
    }
    /// *Returns* the end of the run of parts that begins at `offset` and has one state, written or
    /// not; at most `end`, which is greater than `offset`.
    [[nodiscard]] std::uint64_t run_end(std::uint64_t offset, std::uint64_t end) const noexcept
    {
        const bool is_touched = touched(offset);
        const auto first = offset >> shift_;
        auto at = first / 64 * 64;
        const auto skip_same = [&](const word& w, std::uint64_t mask) {
            const auto bits = w.load(std::memory_order_acquire);
            const auto other = (is_touched ? ~bits : bits) & mask;
            at += other != 0 ? static_cast<std::uint64_t>(std::countr_zero(other)) : 64;
            return other == 0;
        };
        const bool all = each_word(first, (end - 1) >> shift_, skip_same);
        return all ? end : std::min(at << shift_, end);
    }
    void touch(std::uint64_t offset, std::uint64_t length) noexcept
    {
        if (length == 0)
            return;
        each_word(offset >> shift_, (offset + length - 1) >> shift_,
                  [](word& w, std::uint64_t mask) {
                      if ((w.load(std::memory_order_relaxed) & mask) != mask)
                          w.fetch_or(mask, std::memory_order_release);
                      return true;
                  });
    }

    /// Marks the parts that lie wholly in the range as not written.
    void forget(std::uint64_t offset, std::uint64_t length) noexcept
    {
        const auto begin = (offset + part() - 1) >> shift_;
        const auto end = (offset + length) >> shift_;
        if (begin >= end)
            return;
        each_word(begin, end - 1, [](word& w, std::uint64_t mask) {
            if ((w.load(std::memory_order_relaxed) & mask) != 0)
                w.fetch_and(~mask, std::memory_order_relaxed);
            return true;
        });
    }

private:
    using word = std::atomic<std::uint64_t>;

    /// Calls `visit` with each word that holds bits from `first` to `last` and with a mask of these
    /// bits, until it returns false. *Returns* whether it always returned true.
    template <class Visit>
    bool each_word(std::uint64_t first, std::uint64_t last, Visit visit) const noexcept
    {
        constexpr auto all = ~std::uint64_t{0};
        for (auto at = first / 64; at <= last / 64; ++at) {
            const auto from = at == first / 64 ? all << first % 64 : all;
            const auto to = at == last / 64 ? all >> (63 - last % 64) : all;
            if (!visit(words_[static_cast<std::size_t>(at)], from & to))
                return false;
        }
        return true;
    }

    int shift_;
    std::unique_ptr<word[]> words_;
};

}  // namespace nbd
