// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace nbd {

/// Counts the bytes that are read from each region of a memory and proposes regions to move to a
/// huge page. Moving costs about as much as reading the region a few times, so a region is proposed
/// once that many bytes were read. The counter of a settled region is not written any more.
/// *Thread safety*: all members are safe from any thread. A race can lose counts, which delays a
/// proposal.
class huge_page_promoter {
public:
    /// Size of a region in bytes, and its alignment.
    static constexpr std::uint64_t region = std::uint64_t{2} << 20;
    /// Bytes read from a region after which it is proposed.
    static constexpr std::uint32_t enough = std::uint32_t{16} << 20;

    explicit huge_page_promoter(std::uint64_t disk_bytes)
        : regions_{static_cast<std::size_t>(disk_bytes / region)},
          read_{std::make_unique<std::atomic<std::uint32_t>[]>(regions_)}
    {
    }

    /// Counts a read of a range; `length` is not zero. Calls `settle(offset)` for at most one
    /// region that has been read enough. `settle` returns true if the region is settled, false to
    /// have it proposed again after `enough` more bytes.
    template <class Settle>
    void read(std::uint64_t offset, std::uint64_t length, Settle settle)
    {
        const auto end = offset + length;
        bool proposed = false;  // at most one for a call, because moving takes time
        for (auto at = offset; at < end;) {
            const auto number = at / region;
            const auto next = std::min((number + 1) * region, end);
            if (number >= regions_)
                return;
            auto& count = read_[static_cast<std::size_t>(number)];
            const auto before = count.load(std::memory_order_relaxed);
            if (before < enough) {
                auto now = before + static_cast<std::uint32_t>(next - at);
                if (now >= enough && std::exchange(proposed, true))
                    now = enough - 1;
                else if (now >= enough && !settle(number * region))
                    now = 0;
                count.store(now, std::memory_order_relaxed);
            }
            at = next;
        }
    }

    /// Resets the counters of a range that was discarded: its regions are no longer settled.
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
    std::size_t regions_;  ///< the number of whole regions
    std::unique_ptr<std::atomic<std::uint32_t>[]> read_;
};

}  // namespace nbd
