// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/backend/huge_page_promoter.hpp>
#include <nbd/backend/sparse_memory.hpp>
#include <nbd/backend/written_map.hpp>
#include <nbd/concepts/backend.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <system_error>

namespace nbd {

/// A disk in memory. The memory is sparse: it is taken from the kernel as it is written, trim gives
/// it back, reading takes none, and 1 TiB works on a small machine. READs and large WRITEs copy
/// nothing in user space, for the backend lends its memory; 2 MiB that were written whole and are read
/// again and again move to a huge page, which takes some milliseconds once, where the kernel can.
/// Nothing outlives the object: flush and FUA cover the other clients of this process, not a power
/// failure.
///
/// As on a real disk, what overlapping requests in flight at the same time leave is mixed.
/// Thread safety: parallel.
class mem_backend {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool multi_conn = true;
    static constexpr bool fast_zero = true;
    static constexpr bool fills_reads = true;

    /// `size` in bytes. Errors: std::system_error where the address space does not hold it.
    explicit mem_backend(std::uint64_t size) : mem_backend{size, size} {}
    /// A disk that `resize` can make as large as `most` bytes. Address space is taken for those at once,
    /// because memory that was lent cannot move; memory is not.
    mem_backend(std::uint64_t size, std::uint64_t most)
        : memory_{std::max(size, most)}, touched_{memory_.size()},
          heat_{knows_pages() ? memory_.size() : 0}, size_{size}
    {
    }

    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

    std::error_code read(std::uint64_t offset, std::span<std::byte> to) noexcept
    {
        while (!to.empty()) {
            const auto part = std::min<std::uint64_t>(
                touched_.part() - (offset & (touched_.part() - 1)), to.size());
            const auto n = static_cast<std::size_t>(part);
            if (touched_.touched(offset))
                memory_.load(offset, to.first(n));
            else
                std::memset(to.data(), 0, n);
            offset += part;
            to = to.subspan(n);
        }
        return {};
    }
    std::error_code write(std::uint64_t offset, std::span<const std::byte> from) noexcept
    {
        // In this order, and the other way round in `drop`: what a write has said is there stays so,
        // if a trim of the same place is under way.
        memory_.store(offset, from);
        touched_.touch(offset, from.size());
        return {};
    }
    std::error_code flush() noexcept { return {}; }
    std::error_code trim(std::uint64_t offset, std::uint64_t length) noexcept
    {
        return drop(offset, length);
    }
    std::error_code write_zeroes(std::uint64_t offset, std::uint64_t length,
                                 zero_flags flags) noexcept
    {
        // Keeping the pages is a write of zeroes, and not faster than one.
        if (flags.no_hole && flags.fast)
            return std::make_error_code(std::errc::not_supported);
        if (!flags.no_hole)
            return drop(offset, length);
        touched_.touch(offset, length);
        return memory_.zero(offset, length, true);
    }
    std::error_code cache(std::uint64_t, std::uint64_t) noexcept { return {}; }

    std::error_code extents(std::uint64_t offset, std::uint64_t length, extent_list& to)
    {
        using namespace protocol::state_flag;
        const auto end = offset + length;
        bool more = true;
        while (more && offset != end) {
            const bool data = touched_.touched(offset);
            const auto next = touched_.run_end(offset, end);
            more = to.add(next - offset, data ? 0 : hole | zero);
            offset = next;
        }
        return {};
    }
    std::error_code resize(std::uint64_t size) noexcept
    {
        if (size > memory_.size())
            return std::make_error_code(std::errc::no_space_on_device);
        // What was cut off must read as zero if it ever comes back; and what was received in place for a
        // WRITE that was refused in the end must not be there.
        const auto [from, to] = std::minmax(size, size_);
        if (const auto failed = drop(from, to - from))
            return failed;
        size_ = size;
        return {};
    }

    [[nodiscard]] std::span<const std::byte> lend(std::uint64_t offset, std::size_t length) noexcept
    {
        if (!lends)
            return {};
        // What was never written is no memory yet, and shall not become some by being sent.
        if (!touched_.all_touched(offset, length))
            return {};
        return memory_.bytes(offset, length);
    }
    [[nodiscard]] file_range lend_file(std::uint64_t offset, std::size_t length) noexcept
    {
        if (!touched_.all_touched(offset, length))
            return {};
        // What is sent again and again moves to huge pages. Copying it would gain nothing by that.
        heat_.read(offset, length, [this](std::uint64_t region) {
            return touched_.all_touched(region, huge_page_promoter::region)
                && memory_.make_huge(region, huge_page_promoter::region);
        });
        return {.file = memory_.file(), .offset = offset, .sure = true};
    }
    [[nodiscard]] std::span<std::byte> lend_for_write(std::uint64_t offset,
                                                      std::size_t length) noexcept
    {
        if (!lends)
            return {};
        touched_.touch(offset, length);
        return memory_.bytes(offset, length);
    }

    void lent_written(std::uint64_t offset, std::size_t length) noexcept
    {
        touched_.touch(offset, length);
    }

private:
    // ThreadSanitizer takes the reads of a send() to come after it, and so after the client has its
    // reply: each later write by another client would be a race to it. A copy is not.
    static constexpr bool lends = !sparse_memory::watched_for_races;

    /// What only seems to be all data, in a map that does not know it to the page, stays sparse.
    [[nodiscard]] bool knows_pages() const noexcept
    {
        return touched_.part() == written_map::least_part;
    }

    /// Gives memory back; what is left of it reads as zero.
    std::error_code drop(std::uint64_t offset, std::uint64_t length) noexcept
    {
        touched_.forget(offset, length);
        heat_.forget(offset, length);
        return memory_.zero(offset, length, false);
    }

    sparse_memory memory_;
    written_map touched_;
    huge_page_promoter heat_;
    std::uint64_t size_;
};

}  // namespace nbd
