// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/backend/opened_file.hpp>
#include <nbd/backend/posix_file.hpp>
#include <nbd/concepts/backend.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>

namespace nbd {

/// What an error of the system is to a client: errors that the wire has no value for are EIO, and
/// the text says what they were. `offset` is the first byte that failed, where that is known.
[[nodiscard]] inline failure file_failure(int error, std::optional<std::uint64_t> offset = {})
{
    const std::error_code code{error, std::system_category()};
    switch (error) {
    case EPERM:
    case EACCES:
    case EROFS:
    case EIO:
    case ENOMEM:
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EINVAL:
        return {code, {}, offset};
    default:
        return {std::make_error_code(std::errc::io_error), code.message(), offset};
    }
}

/// An open file or block device, and everything that can be done with it but to read and to sync it:
/// what the backends on files have in common.
/// Thread safety: parallel.
template <class System>
class basic_file_device {
public:
    /// Errors: std::system_error, whose text names the path and says what was expected there.
    explicit basic_file_device(const std::string& path, const file_settings& s = {})
        : file_{path, s}, size_{file_.facts().size}
    {
    }
    basic_file_device(basic_file_device&& other) noexcept
        : file_{std::move(other.file_)}, size_{other.size()},
          lacks_punch_{other.lacks_punch_.load()}, lacks_zero_{other.lacks_zero_.load()},
          sync_error_{other.sync_error_.load()}
    {
    }
    basic_file_device& operator=(basic_file_device&& other) noexcept
    {
        file_ = std::move(other.file_);
        size_ = other.size_.load();
        lacks_punch_ = other.lacks_punch_.load();
        lacks_zero_ = other.lacks_zero_.load();
        sync_error_ = other.sync_error_.load();
        return *this;
    }

    [[nodiscard]] int descriptor() const noexcept { return file_.descriptor(); }
    [[nodiscard]] std::uint64_t size() const noexcept
    {
        return size_.load(std::memory_order_relaxed);
    }
    [[nodiscard]] bool read_only() const noexcept { return file_.settings().read_only; }
    [[nodiscard]] bool direct() const noexcept { return file_.settings().direct; }
    /// As they were when it was opened.
    [[nodiscard]] const file_facts& facts() const noexcept { return file_.facts(); }
    [[nodiscard]] bool is_block_device() const noexcept { return facts().device; }
    /// What offsets and lengths must be multiples of, in bytes; 1 without direct I/O.
    [[nodiscard]] std::uint32_t alignment() const noexcept
    {
        return direct() ? facts().direct_offset : 1;
    }
    /// What addresses must be multiples of, in bytes; 1 without direct I/O.
    [[nodiscard]] std::uint32_t memory_alignment() const noexcept
    {
        return direct() ? std::max(facts().direct_memory, std::uint32_t{1}) : 1;
    }
    [[nodiscard]] bool aligned(std::uint64_t offset, std::uint64_t length) const noexcept
    {
        return ((offset | length) & (alignment() - 1)) == 0;
    }
    [[nodiscard]] bool aligned(const void* memory) const noexcept
    {
        return (reinterpret_cast<std::uintptr_t>(memory) & (memory_alignment() - 1)) == 0;
    }
    /// Where the whole sectors of a range begin and end, which are what a device takes; none where they
    /// end before they begin.
    [[nodiscard]] std::pair<std::uint64_t, std::uint64_t>
    whole_sectors(std::uint64_t offset, std::uint64_t length) const noexcept
    {
        const std::uint64_t sector = facts().sector;
        return {(offset + sector - 1) / sector * sector, (offset + length) / sector * sector};
    }
    [[nodiscard]] bool in_sectors(std::uint64_t offset, std::uint64_t length) const noexcept
    {
        return ((offset | length) & (facts().sector - 1)) == 0;
    }
    [[nodiscard]] nbd::block_sizes block_sizes() const noexcept
    {
        return {.minimum = alignment(), .preferred = std::max(facts().preferred, alignment())};
    }

    /// The place of a range for READs without a copy; none with direct I/O, which is not to fill the page cache.
    [[nodiscard]] file_range lend(std::uint64_t offset) const noexcept
    {
        return direct() ? file_range{} : file_range{.file = descriptor(), .offset = offset};
    }

    /// Advice: where the system cannot do it, nothing happens, and that is a success.
    [[nodiscard]] failure trim(std::uint64_t offset, std::uint64_t length)
    {
        if (read_only())
            return file_failure(EROFS);
        const auto [first, last] = whole_sectors(offset, length);
        if (first >= last)
            return {};
        // It may discard what it has no fast way to zero, and so has no hole for.
        int error = 0;
        if (!facts().device)
            error = unless(lacks_punch_,
                           [&] { return System::punch(descriptor(), first, last - first); });
        else if (System::discard(descriptor(), first, last - first) != 0)
            error = errno;
        return error == 0 || cannot(error) ? failure{} : file_failure(error);
    }

    /// Zeroes without data. std::errc::not_supported where the system has no way to it, or none that
    /// is faster than writing and `flags.fast` asks for one: then zeroes can be written.
    [[nodiscard]] failure write_zeroes(std::uint64_t offset, std::uint64_t length, zero_flags flags)
    {
        if (read_only())
            return file_failure(EROFS);
        if (length == 0)
            return {};
        if (!in_sectors(offset, length))
            return std::make_error_code(std::errc::not_supported);
        if (!flags.no_hole) {
            const int error =
                unless(lacks_punch_, [&] { return System::punch(descriptor(), offset, length); });
            if (!cannot(error))
                return error == 0 ? failure{} : file_failure(error);
        }
        // On a device, this is a write of zeroes if need be, which the system does best. On a file, it
        // is done with the tables of the file system alone.
        if (!facts().device || !flags.fast) {
            const int error = unless(lacks_zero_, [&] {
                return facts().device ? System::zero_device(descriptor(), offset, length)
                                      : System::zero(descriptor(), offset, length);
            });
            if (!cannot(error))
                return error == 0 ? failure{} : file_failure(error);
        }
        return std::make_error_code(std::errc::not_supported);
    }

    /// Starts to bring a range into the page cache; with direct I/O there is nothing to do.
    [[nodiscard]] failure cache(std::uint64_t offset, std::uint64_t length) const
    {
        if (direct() || System::will_need(descriptor(), offset, length) == 0 || is_lacking(errno))
            return {};
        return file_failure(errno);
    }

    /// Holes as the file system tells them, which read as zero; all is data where it does not.
    [[nodiscard]] failure extents(std::uint64_t offset, std::uint64_t length, extent_list& to) const
    {
        using namespace protocol::state_flag;
        const auto end = offset + length;
        bool more = true;
        while (more && offset != end) {
            auto next = static_cast<std::uint64_t>(System::next_data(descriptor(), offset));
            bool is_hole = true;
            if (next == none) {
                is_hole = errno == ENXIO;
                // Past the end of a file that was cut off there is nothing, which is no hole.
                if (is_hole && System::size(descriptor()) < end)
                    return file_failure(EIO);
                next = end;
            } else if (next <= offset) {
                is_hole = false;
                next = static_cast<std::uint64_t>(System::next_hole(descriptor(), offset));
                if (next == none || next <= offset)
                    next = end;
            }
            next = std::min(next, end);
            more = to.add(next - offset, is_hole ? hole | zero : 0);
            offset = next;
        }
        return {};
    }

    /// For regular files; a block device has the size that it has. A write that is under way meanwhile
    /// may leave a longer file behind than it should be, until the next resize.
    [[nodiscard]] failure resize(std::uint64_t size)
    {
        if (read_only())
            return file_failure(EROFS);
        if (facts().device)
            return std::make_error_code(std::errc::not_supported);
        if (!aligned(0, size))
            return file_failure(EINVAL);
        // A write that was under way while the file was cut off may have made it longer again, and what is
        // added has to be zero.
        if (const auto before = this->size();
            size > before && System::truncate(descriptor(), before) != 0)
            return file_failure(errno);
        if (System::truncate(descriptor(), size) != 0)
            return file_failure(errno);
        size_.store(size, std::memory_order_relaxed);
        return {};
    }

    /// Of a call that failed: this system, or this file, will never have it.
    [[nodiscard]] static bool is_lacking(int error) noexcept
    {
        return error == EOPNOTSUPP || error == ENOTSUP || error == ENOSYS || error == ENOTTY;
    }
    /// Of a call to change a file's storage that failed: it cannot be done, or not with that range.
    [[nodiscard]] static bool cannot(int error) noexcept
    {
        return is_lacking(error) || error == EINVAL || error == ENODEV;
    }

    /// Writes to the page cache, or without it, until all is written.
    [[nodiscard]] failure write(std::uint64_t offset, std::span<const std::byte> from) const
    {
        while (!from.empty()) {
            const auto n = System::write(descriptor(), from.data(), from.size(), offset);
            if (n <= 0)
                return file_failure(n < 0 ? errno : EIO, offset);
            offset += static_cast<std::size_t>(n);
            from = from.subspan(static_cast<std::size_t>(n));
        }
        return {};
    }

    /// The first error of a sync, for ever. The system reports it once, and then takes the data that it
    /// could not write for written, so that the next sync would succeed without them. What was
    /// written since the last good sync may be lost, whatever is tried; so to whoever asks again the
    /// answer stays EIO, until the file is opened anew.
    [[nodiscard]] failure sync_state() const
    {
        const int error = sync_error_.load();
        if (error == 0) [[likely]]
            return {};
        return {std::make_error_code(std::errc::io_error),
                "an earlier flush failed, and what was written before it may be lost: "
                    + std::system_category().message(error)};
    }
    /// Notes that a sync has failed, or a durable write after its data were taken.
    [[nodiscard]] failure sync_failed(int error)
    {
        int none_yet = 0;
        sync_error_.compare_exchange_strong(none_yet, error);
        return file_failure(error);
    }
    /// What to make of a sync, or of a durable write, that has succeeded. The system may have told
    /// another one at the same time of what was lost, which has not noted it yet. So the witness is
    /// asked, whom it tells as well, and who is asked by one at a time, until the answer is noted. Where the
    /// system has no such question, or no answer (overlayfs), or no second descriptor, what is still
    /// on its way is missed: there, only a program that syncs once at a time is told for sure.
    [[nodiscard]] failure sync_succeeded()
    {
        const std::lock_guard one_at_a_time{asking_};
        if (System::loss(file_.witness()) != 0 && !cannot(errno) && errno != EPERM
            && errno != ESPIPE)
            return sync_failed(errno);
        return sync_state();
    }
    /// What a durable write that failed was about, which did begin: the system refused the data, or could not
    /// make durable what it took, these or others, and says so once. The same write without durability tells.
    [[nodiscard]] failure durable_write_failed(int error, std::uint64_t offset,
                                               std::span<const std::byte> from)
    {
        if (error == ENOSPC || error == EDQUOT || error == EFBIG || error == EPERM
            || error == EROFS) {
            auto refused = write(offset, from);
            if (refused && refused.code.value() == error)
                return refused;
        }
        return sync_failed(error);
    }

private:
    static constexpr auto none = static_cast<std::uint64_t>(-1);

    /// The error of a call that this file may lack. Once it does, it is not tried again.
    template <class Call>
    static int unless(std::atomic<bool>& lacks, Call&& call)
    {
        if (lacks.load(std::memory_order_relaxed))
            return ENOTSUP;
        if (call() == 0)
            return 0;
        if (is_lacking(errno))
            lacks.store(true, std::memory_order_relaxed);
        return errno;
    }

    opened_file<System> file_;
    std::atomic<std::uint64_t> size_ = 0;
    std::atomic<bool> lacks_punch_ = false;
    std::atomic<bool> lacks_zero_ = false;
    std::atomic<int> sync_error_ = 0;
    std::mutex asking_;  // the witness
};

using file_device = basic_file_device<posix_file>;

}  // namespace nbd
