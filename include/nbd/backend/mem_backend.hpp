// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/backend/huge_page_promoter.hpp>
#include <nbd/backend/sparse_memory.hpp>
#include <nbd/backend/written_map.hpp>
#include <nbd/concepts/backend.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <system_error>

#include <unistd.h>

namespace nbd {

/// The memory of a mem_backend.
struct mem_settings {
    /// Largest size in bytes that `resize` can reach. Default: the size. The constructor reserves
    /// address space for it, because lent memory cannot move; it reserves no memory.
    std::uint64_t max_size = 0;
    /// Largest memory in bytes that data can take, in whole pages. A write that would pass the
    /// limit fails with ENOSPC; trim gives memory back. Default: three quarters of the machine's
    /// memory. Set a smaller limit in a container, or for several disks that together are larger
    /// than the memory.
    std::optional<std::uint64_t> memory_limit{};
};

/// A disk in memory. Writes take memory from the kernel, trim gives it back, and reads take none; a
/// disk can be larger than the machine's memory. READs and large WRITEs are sent from and received
/// into that memory without a copy in user space. A region of 2 MiB that holds data throughout and
/// is read often moves to a huge page where the kernel supports it; the move takes some
/// milliseconds, once. The data are lost with the object: flush and FUA cover the other clients of
/// this process, not a power failure.
///
/// *Thread safety*: all members are safe from any thread. Calls on the same bytes at the same time
/// leave a mixture of their data, as on any disk.
class mem_backend final {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool multi_conn = true;
    static constexpr bool fast_zero = true;
    static constexpr bool fills_reads = true;

    /// `size` in bytes. *Errors*: std::system_error where the address space has no room for it;
    /// ENOTSUP for a memory_limit that is smaller than `size` where the system has no memfd.
    explicit mem_backend(std::uint64_t size, const mem_settings& s = {})
        : memory_{std::max(size, s.max_size), limit(s)}, written_{memory_.size()},
          promoter_{knows_pages() ? memory_.size() : 0}, size_{size}
    {
        if (s.memory_limit.value_or(size) < size && !memory_.is_limited())
            throw std::system_error{ENOTSUP, std::system_category(),
                                    "nbd: mem_backend: memory_limit needs memfd_create"};
    }

    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

    std::error_code read(std::uint64_t offset, std::span<std::byte> to) noexcept
    {
        while (!to.empty()) {
            const auto part = std::min<std::uint64_t>(
                written_.part() - (offset & (written_.part() - 1)), to.size());
            const auto now = to.first(static_cast<std::size_t>(part));
            if (!written_.touched(offset))
                std::memset(now.data(), 0, now.size());
            else if (knows_pages())
                memory_.load(offset, now);
            else
                memory_.load_sparse(offset, now);
            offset += part;
            to = to.subspan(now.size());
        }
        return {};
    }
    std::error_code write(std::uint64_t offset, std::span<const std::byte> from) noexcept
    {
        if (from.empty())
            return {};
        if (knows_pages() && written_.all_touched(offset, from.size()))
            memory_.store(offset, from);
        else if (const auto failed = memory_.store_new(offset, from))
            return failed;
        // Order matters: store, then mark; `drop` marks, then discards.
        written_.touch(offset, from.size());
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
        // Keeping the pages means writing zeroes. The server does that, in pieces between which it
        // can stop.
        if (flags.no_hole)
            return std::make_error_code(std::errc::not_supported);
        return drop(offset, length);
    }
    std::error_code cache(std::uint64_t, std::uint64_t) noexcept { return {}; }

    std::error_code extents(std::uint64_t offset, std::uint64_t length, extent_list& to)
    {
        using namespace protocol::state_flag;
        const auto end = offset + length;
        bool more = true;
        while (more && offset != end) {
            const bool data = written_.touched(offset);
            const auto next = written_.run_end(offset, end);
            more = to.add(next - offset, data ? 0 : hole | zero);
            offset = next;
        }
        return {};
    }
    std::error_code resize(std::uint64_t size) noexcept
    {
        if (size > memory_.size())
            return std::make_error_code(std::errc::no_space_on_device);
        // Bytes past the end must read as zero when the disk grows again. So must the payload of a
        // WRITE that was received in place and then refused. Nothing past the end must be kept, so
        // whole pages are dropped.
        const auto [from, to] = std::minmax(size, size_);
        const auto end = std::min(round_up(to), memory_.size());
        if (const auto failed = drop(from, end - from))
            return failed;
        size_ = size;
        return {};
    }

    [[nodiscard]] std::span<const std::byte> lend(std::uint64_t offset, std::size_t length) noexcept
    {
        return lends() && written_.all_touched(offset, length) ? memory_.bytes(offset, length)
                                                               : std::span<std::byte>{};
    }
    [[nodiscard]] file_range lend_file(std::uint64_t offset, std::size_t length) noexcept
    {
        if (!written_.all_touched(offset, length))
            return {};
        // Data that are sent often move to huge pages, because they are then sent in fewer pieces.
        // Data that are copied gain nothing.
        promoter_.read(offset, length, [this](std::uint64_t region) {
            return written_.all_touched(region, huge_page_promoter::region)
                && memory_.make_huge(region, huge_page_promoter::region);
        });
        return {.file = memory_.file(), .offset = offset, .sure = true};
    }
    /// Lends memory that was written before. For other memory, `write` checks whether there is room
    /// for new data.
    [[nodiscard]] std::span<std::byte> lend_for_write(std::uint64_t offset,
                                                      std::size_t length) noexcept
    {
        return lends() && written_.all_touched(offset, length) ? memory_.bytes(offset, length)
                                                               : std::span<std::byte>{};
    }
    void lent_written(std::uint64_t offset, std::size_t length) noexcept
    {
        written_.touch(offset, length);  // again, because a trim may have come between
    }

private:
    /// Bytes that writes may commit.
    [[nodiscard]] static std::uint64_t limit(const mem_settings& s) noexcept
    {
        if (s.memory_limit)
            return *s.memory_limit;
        const auto pages = ::sysconf(_SC_PHYS_PAGES);
        return pages <= 0 ? sparse_memory::unlimited
                          : static_cast<std::uint64_t>(pages) * sparse_memory::page() / 4 * 3;
    }
    /// Whether the map has a bit for each page. On a large disk, one bit stands for many pages: a
    /// page whose bit is set may be a hole, and an access through the mapping would commit it.
    [[nodiscard]] bool knows_pages() const noexcept
    {
        return written_.part() == written_map::least_part;
    }
    // Not under ThreadSanitizer: it orders the reads of a send() after the call, and so after the
    // client has its reply, and would report each later write by another client as a race. It does
    // not report a copy. Not where the limit is in force and the map is coarse either: a page that
    // was not committed would be, without a check of the limit.
    [[nodiscard]] bool lends() const noexcept
    {
        return !sparse_memory::watched_for_races && (knows_pages() || !memory_.is_limited());
    }

    [[nodiscard]] static std::uint64_t round_up(std::uint64_t bytes) noexcept
    {
        return (bytes + sparse_memory::page() - 1) / sparse_memory::page() * sparse_memory::page();
    }
    /// Gives the whole pages of a range back and zeroes the rest of it. Commits nothing.
    std::error_code drop(std::uint64_t offset, std::uint64_t length) noexcept
    {
        auto end = offset + length;
        if (end == memory_.size())
            end = round_up(end);  // nothing else is in the last page
        if (!memory_.discards())
            return clear_data(offset, end);
        auto first = std::min(round_up(offset), end);
        auto last = std::max(end / sparse_memory::page() * sparse_memory::page(), first);
        if (!knows_pages() && memory_.discards_bytes())
            first = offset, last = end;
        const bool head = has_data(offset, first);
        const bool tail = has_data(last, end);
        written_.forget(offset, length);
        promoter_.forget(offset, length);
        if (head)
            memory_.clear(offset, first - offset);
        if (tail)
            memory_.clear(last, end - last);
        return memory_.discard(first, last - first);
    }
    /// Zeroes the data of a range, where the system does not take pages back. They stay committed.
    std::error_code clear_data(std::uint64_t offset, std::uint64_t end) noexcept
    {
        static constexpr std::array<std::byte, std::size_t{64} << 10> zeroes{};
        while (offset != end) {
            auto next = written_.run_end(offset, end);
            if (written_.touched(offset)) {
                if (knows_pages()) {
                    memory_.clear(offset, next - offset);
                } else {  // some pages may be holes
                    next = std::min(next, offset + zeroes.size());
                    if (const auto failed = memory_.store_new(
                            offset,
                            std::span{zeroes}.first(static_cast<std::size_t>(next - offset))))
                        return failed;
                }
            }
            offset = next;
        }
        return {};
    }
    [[nodiscard]] bool has_data(std::uint64_t from, std::uint64_t to) const noexcept
    {
        return from != to && (written_.touched(from) || written_.run_end(from, to) != to);
    }

    sparse_memory memory_;
    written_map written_;
    huge_page_promoter promoter_;
    std::uint64_t size_;
};

}  // namespace nbd
