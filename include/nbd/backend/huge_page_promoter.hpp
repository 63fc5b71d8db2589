// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace nbd {

/// Counts what is read of each region of a memory, to find those that are worth moving to a huge page:
/// moving costs about as much as reading the region a few times, so it is proposed once that many
/// bytes were read. A region that is settled is not written to by counting.
/// Thread safety: all members from any thread; counts that are lost to a race only delay.
class huge_page_promoter {
public:
    /// Bytes of a region, aligned to as many.
    static constexpr std::uint64_t region = std::uint64_t{2} << 20;
    /// Bytes read of it after which it is proposed.
    static constexpr std::uint32_t enough = std::uint32_t{16} << 20;

    explicit huge_page_promoter(std::uint64_t size)
        : regions_{static_cast<std::size_t>(size / region)},
          read_{std::make_unique<std::atomic<std::uint32_t>[]>(regions_)}
    {
    }

    /// A range was read; its length is not zero. `settle(offset)` is called for a region that is worth
    /// it, one at a time, and says whether it is settled, or is to be proposed again after as many bytes.
    template <class Settle>
    void read(std::uint64_t offset, std::uint64_t length, Settle settle)
    {
        const auto end = offset + length;
        bool one = false;  // moving takes time, so one at a time
        for (auto at = offset; at < end;) {
            const auto number = at / region;
            const auto next = std::min((number + 1) * region, end);
            if (number >= regions_)
                return;
            auto& count = read_[static_cast<std::size_t>(number)];
            const auto before = count.load(std::memory_order_relaxed);
            if (before < enough) {
                auto now = before + static_cast<std::uint32_t>(next - at);
                if (now >= enough && std::exchange(one, true))
                    now = enough - 1;
                else if (now >= enough && !settle(number * region))
                    now = 0;
                count.store(now, std::memory_order_relaxed);
            }
            at = next;
        }
    }

    /// A range was given back, so what was settled there is so no more.
    void forget(std::uint64_t offset, std::uint64_t length) noexcept
    {
        if (length == 0)
            return;
        const auto end = std::min<std::uint64_t>((offset + length - 1) / region + 1, regions_);
        for (auto number = offset / region; number < end; ++number) {
            auto& count = read_[static_cast<std::size_t>(number)];
            if (count.load(std::memory_order_relaxed) != 0)
                count.store(0, std::memory_order_relaxed);
        }
    }

private:
    std::size_t regions_;  ///< whole ones
    std::unique_ptr<std::atomic<std::uint32_t>[]> read_;
};

}  // namespace nbd
