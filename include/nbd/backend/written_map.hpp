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

    explicit written_map(std::uint64_t disk_bytes)
        : shift_{std::max(std::countr_zero(least_part),
                          static_cast<int>(std::bit_width(disk_bytes - (disk_bytes != 0))) - 24)},
          words_{made((disk_bytes >> shift_) / 64 + 1)},
          some_{made((disk_bytes >> shift_) / 64 / 64 + 1)},
          full_{made((disk_bytes >> shift_) / 64 / 64 + 1)}
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
        const auto last = (end - 1) >> shift_;
        // The bits of a word that differ from the first part.
        const auto others = [&](std::uint64_t at) {
            const auto bits = words_[at].load(std::memory_order_acquire);
            return is_touched ? ~bits : bits;
        };
        auto at = first / 64;
        auto other = others(at) & (~std::uint64_t{0} << first % 64);
        while (other == 0) {
            at = is_touched ? next_bit(full_, at + 1, last / 64, true)
                            : next_bit(some_, at + 1, last / 64, false);
            if (at > last / 64)
                return end;
            other = others(at);
        }
        const auto part_at = at * 64 + static_cast<std::uint64_t>(std::countr_zero(other));
        return part_at > last ? end : part_at << shift_;
    }
    void touch(std::uint64_t offset, std::uint64_t length) noexcept
    {
        if (length == 0)
            return;
        each_word(offset >> shift_, (offset + length - 1) >> shift_,
                  [this](word& w, std::uint64_t mask) {
                      if ((w.load(std::memory_order_relaxed) & mask) == mask)
                          return true;
                      const bool filled = (w.fetch_or(mask) | mask) == ~std::uint64_t{0};
                      const auto at = static_cast<std::uint64_t>(&w - words_.get());
                      set(some_, at);
                      if (filled) {
                          set(full_, at);
                          if (w.load() != ~std::uint64_t{0})  // forgotten meanwhile
                              clear(full_, at);
                      }
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
        each_word(begin, end - 1, [this](word& w, std::uint64_t mask) {
            if ((w.load(std::memory_order_relaxed) & mask) != 0) {
                w.fetch_and(~mask);
                clear(full_, static_cast<std::uint64_t>(&w - words_.get()));
            }
            return true;
        });
    }

private:
    using word = std::atomic<std::uint64_t>;
    using words = std::unique_ptr<word[]>;

    [[nodiscard]] static words made(std::uint64_t count)
    {
        return std::make_unique<word[]>(static_cast<std::size_t>(count));
    }
    static void set(const words& of, std::uint64_t bit) noexcept
    {
        auto& w = of[static_cast<std::size_t>(bit / 64)];
        const auto mask = std::uint64_t{1} << bit % 64;
        if ((w.load(std::memory_order_relaxed) & mask) == 0)
            w.fetch_or(mask);
    }
    static void clear(const words& of, std::uint64_t bit) noexcept
    {
        auto& w = of[static_cast<std::size_t>(bit / 64)];
        const auto mask = std::uint64_t{1} << bit % 64;
        if ((w.load() & mask) != 0)
            w.fetch_and(~mask);
    }
    /// *Returns* the first bit from `from` to `last` that is not `skipped`; `last + 1` if none is.
    [[nodiscard]] static std::uint64_t next_bit(const words& of, std::uint64_t from,
                                                std::uint64_t last, bool skipped) noexcept
    {
        for (auto at = from; at <= last; at = (at / 64 + 1) * 64) {
            const auto bits = of[static_cast<std::size_t>(at / 64)].load(std::memory_order_acquire);
            const auto wanted = (skipped ? ~bits : bits) & (~std::uint64_t{0} << at % 64);
            if (wanted != 0)
                return at / 64 * 64 + static_cast<std::uint64_t>(std::countr_zero(wanted));
        }
        return last + 1;
    }

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
    words words_;
    /// A bit for each word, so that a search looks at 64 words at a time. `some_`: parts of the
    /// word may be touched. `full_`: all are, but for a moment while others change the word.
    words some_;
    words full_;
};

}  // namespace nbd
