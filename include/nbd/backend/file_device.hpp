// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/backend/file_failure.hpp>
#include <nbd/backend/opened_file.hpp>
#include <nbd/backend/posix_file.hpp>
#include <nbd/backend/supported.hpp>
#include <nbd/concepts/backend.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <system_error>
#include <utility>

namespace nbd {

/// An open file or block device with every operation except reading and syncing: the common part of
/// the backends on files.
/// *Thread safety*: parallel.
template <class System>
class basic_file_device {
public:
    /// *Errors*: std::system_error; its text names the path and what was expected there.
    explicit basic_file_device(const std::string& path, const file_settings& s = {})
        : file_{path, s}, size_{file_.facts().size}
    {
    }
    basic_file_device(basic_file_device&& other) noexcept
        : file_{std::move(other.file_)}, size_{other.size()},
          reads_now_{std::move(other.reads_now_)}, punches_{std::move(other.punches_)},
          zeroes_{std::move(other.zeroes_)}, sync_error_{other.sync_error_.load()}
    {
    }
    basic_file_device& operator=(basic_file_device&& other) noexcept
    {
        file_ = std::move(other.file_);
        size_ = other.size_.load();
        reads_now_ = std::move(other.reads_now_);
        punches_ = std::move(other.punches_);
        zeroes_ = std::move(other.zeroes_);
        sync_error_ = other.sync_error_.load();
        return *this;
    }

    [[nodiscard]] int descriptor() const noexcept { return file_.descriptor(); }
    [[nodiscard]] std::uint64_t size() const noexcept
    {
        return size_.load(std::memory_order_relaxed);
    }
    /// Reads the size again, which another program may have changed. *Returns* it.
    std::uint64_t refresh_size() noexcept { return size_ = System::size(descriptor()); }
    [[nodiscard]] bool read_only() const noexcept { return file_.settings().read_only; }
    [[nodiscard]] bool direct() const noexcept { return file_.settings().direct; }
    /// What the system reported when the file was opened.
    [[nodiscard]] const file_facts& facts() const noexcept { return file_.facts(); }
    [[nodiscard]] bool is_block_device() const noexcept { return facts().device; }
    [[nodiscard]] nbd::abilities abilities() const noexcept { return file_.abilities(); }
    /// Bytes that offsets and lengths must be multiples of; 1 without direct I/O.
    [[nodiscard]] std::uint32_t alignment() const noexcept
    {
        return direct() ? facts().direct_offset : 1;
    }
    /// Bytes that addresses must be multiples of; 1 without direct I/O.
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
    /// *Returns* the begin and the end of the whole sectors inside a range; a device accepts only
    /// whole sectors. If there are none, the end may be smaller than the begin.
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

    /// *Returns* the place of a range in the file, for READs without a copy; no file with direct
    /// I/O, because sendfile(2) and splice(2) would fill the page cache.
    [[nodiscard]] file_range lend(std::uint64_t offset) const noexcept
    {
        return direct() ? file_range{} : file_range{.file = descriptor(), .offset = offset};
    }

    /// Reads what the page cache holds, without waiting. *Returns* the bytes read, from the start
    /// of `to`; 0 with direct I/O.
    [[nodiscard]] std::size_t read_now(std::uint64_t offset, std::span<std::byte> to) noexcept
    {
        if (direct() || !reads_now_)
            return 0;
        const auto n = System::read_now(descriptor(), to.data(), to.size(), offset);
        if (n < 0 && is_impossible(errno))
            reads_now_.set_unsupported();
        return n < 0 ? 0 : static_cast<std::size_t>(n);
    }

    /// Releases the storage of a range. This is advice: it succeeds without effect where the system
    /// cannot do it.
    [[nodiscard]] failure trim(std::uint64_t offset, std::uint64_t length)
    {
        if (read_only())
            return file_failure(EROFS);
        const auto [first, last] = whole_sectors(offset, length);
        if (first >= last)
            return {};
        // On a device, discard instead of a hole: a device may support discard and have no fast
        // zeroing.
        int error = 0;
        if (!facts().device)
            error = call_if_supported(punches_, [this, first = first, last = last] {
                return System::punch(descriptor(), first, last - first);
            });
        else if (System::discard(descriptor(), first, last - first) != 0)
            error = errno;
        return error == 0 || is_impossible(error) ? failure{} : file_failure(error);
    }

    /// Makes a range read as zero without sending data to the file.
    /// *Errors*: std::errc::not_supported where the system has no such operation, or none that is
    /// faster than writing and `flags.fast` is set. The caller can write zeroes instead.
    [[nodiscard]] failure write_zeroes(std::uint64_t offset, std::uint64_t length, zero_flags flags)
    {
        if (read_only())
            return file_failure(EROFS);
        if (length == 0)
            return {};
        if (!in_sectors(offset, length))
            return std::make_error_code(std::errc::not_supported);
        if (!flags.no_hole) {
            const int error = call_if_supported(
                punches_, [&] { return System::punch(descriptor(), offset, length); });
            if (!is_impossible(error))
                return error == 0 ? zeroed_to(offset + length) : file_failure(error);
        }
        // On a device, the kernel may have to write the zeroes, and does so better than the caller
        // could. On a file, it changes the tables of the file system only.
        if (!facts().device || !flags.fast) {
            const int error = call_if_supported(zeroes_, [&] {
                return facts().device ? System::zero_device(descriptor(), offset, length)
                                      : System::zero(descriptor(), offset, length);
            });
            if (!is_impossible(error))
                return error == 0 ? zeroed_to(offset + length) : file_failure(error);
        }
        return std::make_error_code(std::errc::not_supported);
    }

    /// *Returns* std::errc::not_supported if another program has made the file shorter than `end`:
    /// the system zeroes nothing past its end. The caller then writes the zeroes, as WRITE would.
    [[nodiscard]] failure zeroed_to(std::uint64_t end) const
    {
        if (facts().device || System::size(descriptor()) >= end)
            return {};
        return std::make_error_code(std::errc::not_supported);
    }

    /// Starts to read a range into the page cache. No effect with direct I/O.
    [[nodiscard]] failure cache(std::uint64_t offset, std::uint64_t length) const
    {
        if (direct() || System::will_need(descriptor(), offset, length) == 0
            || is_impossible(errno))
            return {};
        return file_failure(errno);
    }

    /// Reports the holes of a range, which read as zero. Where the file system does not know them,
    /// all is data.
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
                // The file was truncated by another program: the range past its end is no hole.
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

    /// Changes the size of a regular file. A write that runs at the same time may leave the file
    /// longer than `size` until the next resize.
    /// *Errors*: std::errc::not_supported for a block device, whose size is fixed.
    [[nodiscard]] failure resize(std::uint64_t size)
    {
        if (read_only())
            return file_failure(EROFS);
        if (facts().device)
            return std::make_error_code(std::errc::not_supported);
        if (!aligned(0, size))
            return file_failure(EINVAL);
        // A write that ran while the file was made shorter may have made it longer again.
        // Truncating to the old size first makes the added bytes zero.
        if (const auto before = this->size();
            size > before && System::truncate(descriptor(), before) != 0)
            return file_failure(errno);
        if (System::truncate(descriptor(), size) != 0)
            return file_failure(errno);
        size_.store(size, std::memory_order_relaxed);
        return {};
    }

    /// Whether `error`, of a failed call, means that this system or this file never supports the
    /// call.
    [[nodiscard]] static bool is_unsupported(int error) noexcept
    {
        return error == EOPNOTSUPP || error == ENOTSUP || error == ENOSYS || error == ENOTTY;
    }
    /// Whether `error`, of a failed call that has a replacement, means that the call is not
    /// supported, or not for that range, or that the system refuses it (EPERM, as the seccomp
    /// profiles of containers do).
    [[nodiscard]] static bool is_impossible(int error) noexcept
    {
        return is_unsupported(error) || error == EINVAL || error == ENODEV || error == EPERM;
    }

    /// Writes all of `from`: to the page cache, or past it with direct I/O.
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

    /// *Returns* EIO if a sync has ever failed since the file was opened; success otherwise. The
    /// system reports a failed write-back once and then treats the lost data as written, so that
    /// the next sync would succeed without them. Data written since the last successful sync may be
    /// lost, and no retry helps.
    [[nodiscard]] failure sync_state() const
    {
        const int error = sync_error_.load();
        if (error == 0) [[likely]]
            return {};
        return {std::make_error_code(std::errc::io_error),
                "an earlier flush failed, and what was written before it may be lost: "
                    + std::system_category().message(error)};
    }
    /// Records that a sync has failed, or a durable write whose data were taken.
    [[nodiscard]] failure sync_failed(int error)
    {
        int none_yet = 0;
        sync_error_.compare_exchange_strong(none_yet, error);
        return file_failure(error);
    }
    /// Checks for data loss after a sync or a durable write has succeeded. *Returns* as
    /// sync_state().
    ///
    /// The system reports a loss once for each open file. It may have reported it to a sync of
    /// another thread that has not recorded it yet. The witness gets its own report, so this
    /// function asks there, one thread at a time, until the answer is recorded. Where the system
    /// cannot be asked, gives no answer (overlayfs), or the file cannot be opened twice, a loss
    /// that is not recorded yet is missed; then only a program that runs one sync at a time is sure
    /// to get the error.
    [[nodiscard]] failure sync_succeeded()
    {
        const std::lock_guard lock{witness_mutex_};
        if (System::loss(file_.witness()) != 0 && !is_impossible(errno) && errno != ESPIPE)
            return sync_failed(errno);
        return sync_state();
    }
    /// Finds out why a durable write failed that the kernel had begun. *Returns* the error of the
    /// write if the system refused the data; otherwise records a failed sync: the system could not
    /// make durable these data or others, and reports that once. The same write without durability
    /// distinguishes the two.
    [[nodiscard]] failure durable_write_failed(int error, std::uint64_t offset,
                                               std::span<const std::byte> from)
    {
        if (error == ENOSPC || error == EDQUOT || error == EFBIG || error == EROFS) {
            auto refused = write(offset, from);
            if (refused && refused.code.value() == error)
                return refused;
        }
        return sync_failed(error);
    }

private:
    static constexpr auto none = static_cast<std::uint64_t>(-1);

    /// Makes a call that this file may not support. *Returns* 0 or the error. Once the call was
    /// found unsupported, it is not made again.
    template <class Call>
    static int call_if_supported(supported& can, Call&& call)
    {
        if (!can)
            return ENOTSUP;
        if (call() == 0)
            return 0;
        if (is_unsupported(errno))
            can.set_unsupported();
        return errno;
    }

    opened_file<System> file_;
    std::atomic<std::uint64_t> size_ = 0;
    supported reads_now_;
    supported punches_;
    supported zeroes_;
    std::atomic<int> sync_error_ = 0;
    std::mutex witness_mutex_;  ///< one query of the witness at a time
};

using file_device = basic_file_device<posix_file>;

}  // namespace nbd
