// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/backend/bounce_memory.hpp>
#include <nbd/backend/file_device.hpp>
#include <nbd/backend/posix_file.hpp>
#include <nbd/concepts/backend.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace nbd {

/// A backend that stores its data in a regular file or on a block device:
///
///     nbd::file_backend disk{"disk.img", {.create = std::uint64_t{1} << 30}};
///
/// A completed write is in the system's page cache. It is on stable storage after a flush, or when
/// the write returns, with FUA. After a failed flush, every later flush and FUA write fails with
/// EIO until the file is opened again, because the system drops the data that it could not write
/// and reports this once. Plain writes and reads go on, so that the remaining data can be saved. A
/// read past the end of a file that another program has truncated fails with EIO.
///
/// Overlapping requests in flight at the same time leave a mixture of their data, as on a real
/// disk.
/// *Errors*: the system's; those that NBD has no value for become EIO, with the system's text.
/// *Thread safety*: parallel.
template <class System>
class basic_file_backend final {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool blocks = true;
    static constexpr bool multi_conn = true;
    static constexpr bool fast_zero = true;
    static constexpr bool fills_reads = true;

    /// *Errors*: std::system_error; its text names the path and what was expected there.
    explicit basic_file_backend(const std::string& path, const file_settings& s = {})
        : device_{path, s}
    {
    }

    [[nodiscard]] std::uint64_t size() const noexcept { return device_.size(); }
    std::uint64_t refresh_size() noexcept { return device_.refresh_size(); }
    [[nodiscard]] nbd::block_sizes block_sizes() const noexcept { return device_.block_sizes(); }
    [[nodiscard]] nbd::abilities abilities() const noexcept { return device_.abilities(); }

    failure read(std::uint64_t offset, std::span<std::byte> to)
    {
        if (device_.aligned(to.data())) [[likely]]
            return read_all(offset, to);
        const auto bounce = bounce_memory();
        while (!to.empty()) {
            const auto part = bounce.first(std::min(to.size(), bounce.size()));
            if (auto failed = read_all(offset, part))
                return failed;
            std::memcpy(to.data(), part.data(), part.size());
            offset += part.size();
            to = to.subspan(part.size());
        }
        return {};
    }

    failure write(std::uint64_t offset, std::span<const std::byte> from, write_flags flags = {})
    {
        if (device_.read_only())
            return file_failure(EROFS);
        const auto put = [&](std::uint64_t at, std::span<const std::byte> part) {
            return flags.fua ? write_all_durably(at, part) : device_.write(at, part);
        };
        if (device_.aligned(from.data())) [[likely]]
            return put(offset, from);
        const auto bounce = bounce_memory();
        while (!from.empty()) {
            const auto part = bounce.first(std::min(from.size(), bounce.size()));
            std::memcpy(part.data(), from.data(), part.size());
            if (auto failed = put(offset, part))
                return failed;
            offset += part.size();
            from = from.subspan(part.size());
        }
        return {};
    }

    failure flush()
    {
        if (device_.read_only())
            return {};
        if (auto failed = device_.sync_state())
            return failed;
        if (System::sync(device_.descriptor()) != 0)
            return device_.sync_failed(errno);
        return device_.sync_succeeded();
    }

    failure trim(std::uint64_t offset, std::uint64_t length)
    {
        return device_.trim(offset, length);
    }
    failure write_zeroes(std::uint64_t offset, std::uint64_t length, zero_flags flags)
    {
        return device_.write_zeroes(offset, length, flags);
    }
    failure cache(std::uint64_t offset, std::uint64_t length)
    {
        return device_.cache(offset, length);
    }
    failure extents(std::uint64_t offset, std::uint64_t length, extent_list& to)
    {
        return device_.extents(offset, length, to);
    }
    failure resize(std::uint64_t size) { return device_.resize(size); }
    std::size_t read_now(std::uint64_t offset, std::span<std::byte> to) noexcept
    {
        return device_.read_now(offset, to);
    }
    [[nodiscard]] file_range lend_file(std::uint64_t offset, std::size_t) noexcept
    {
        return device_.lend(offset);
    }

private:
    failure read_all(std::uint64_t offset, std::span<std::byte> to)
    {
        while (!to.empty()) {
            const auto n = System::read(device_.descriptor(), to.data(), to.size(), offset);
            if (n < 0)
                return file_failure(errno, offset);
            const auto done = static_cast<std::size_t>(n);
            offset += done;
            // The end of the file, which has been truncated since it was opened. With direct I/O, a
            // length that is not a multiple of the alignment also means the end.
            if (done == 0 || !device_.aligned(0, done))
                return file_failure(EIO, offset);
            to = to.subspan(done);
        }
        return {};
    }

    failure write_all_durably(std::uint64_t offset, std::span<const std::byte> from)
    {
        if (auto failed = device_.sync_state())
            return failed;
        while (!from.empty()) {
            const auto n =
                System::write_durably(device_.descriptor(), from.data(), from.size(), offset);
            if (n <= 0)
                return write_then_flush(offset, from, n < 0 ? errno : EIO);
            offset += static_cast<std::size_t>(n);
            from = from.subspan(static_cast<std::size_t>(n));
        }
        return device_.sync_succeeded();
    }
    failure write_then_flush(std::uint64_t offset, std::span<const std::byte> from, int error)
    {
        if (!device_.is_impossible(error))
            return device_.durable_write_failed(error, offset, from);
        // RWF_DSYNC is not supported, or not for this write, or the system refuses the call. No
        // data are lost.
        auto refused = device_.write(offset, from);
        return refused ? refused : flush();
    }

    basic_file_device<System> device_;
};

using file_backend = basic_file_backend<posix_file>;

}  // namespace nbd
