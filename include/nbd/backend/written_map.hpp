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
/// One bit for 4 KiB, or for more where the memory is so large (64 GiB) that the map would be.
/// Thread safety: all members from any thread.
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

    /// Bytes that one bit stands for.
    [[nodiscard]] std::uint64_t part() const noexcept { return std::uint64_t{1} << shift_; }

    [[nodiscard]] bool touched(std::uint64_t offset) const noexcept
    {
        return all_touched(offset, 1);
    }
    /// Whether every part of the range was; the length is not zero.
    [[nodiscard]] bool all_touched(std::uint64_t offset, std::uint64_t length) const noexcept
    {
        return each_word(offset >> shift_, (offset + length - 1) >> shift_,
                         [](const word& w, std::uint64_t mask) {
                             return (w.load(std::memory_order_acquire) & mask) == mask;
                         });
    }
    /// The end of the parts from the one at `offset` on that are all touched, or all not, as it is; at
    /// most `end`, which is behind `offset`.
    [[nodiscard]] std::uint64_t run_end(std::uint64_t offset, std::uint64_t end) const noexcept
    {
        const bool as_it_is = touched(offset);
        const auto first = offset >> shift_;
        auto at = first / 64 * 64;
        const auto odd = [&](const word& w, std::uint64_t mask) {
            const auto bits = w.load(std::memory_order_acquire);
            const auto other = (as_it_is ? ~bits : bits) & mask;
            at += other != 0 ? static_cast<std::uint64_t>(std::countr_zero(other)) : 64;
            return other == 0;
        };
        const bool all = each_word(first, (end - 1) >> shift_, odd);
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

    /// Forgets the parts that lie wholly in the range.
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

    /// Visits the words of the bits from `first` to `last`, with a mask of these bits, as long as
    /// `visit` says true. Whether it always did.
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
