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

/// A disk in a file, or on a block device:
///
///     nbd::file_backend disk{"disk.img", {.create = std::uint64_t{1} << 30}};
///
/// Written data are in the system's cache, and on stable storage after a flush, or at once with FUA.
/// A flush that has failed is not forgiven: the system drops what it could not write, and says so
/// once, so every later flush and FUA write fails with EIO until the file is opened anew, as a
/// database would have it. Plain writes promise nothing and go on, and so do reads, that what is there can be
/// saved. A file that was cut off by somebody else reads as EIO there.
///
/// As on a real disk, what overlapping requests in flight at the same time leave is mixed.
/// Errors: those of the system; what the wire has no value for is EIO, and its text tells more.
/// Thread safety: parallel.
template <class System>
class basic_file_backend {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool blocks = true;
    static constexpr bool multi_conn = true;
    static constexpr bool fast_zero = true;
    static constexpr bool fills_reads = true;

    /// Errors: std::system_error, whose text names the path and says what was expected there.
    explicit basic_file_backend(const std::string& path, const file_settings& s = {})
        : device_{path, s}
    {
    }

    [[nodiscard]] std::uint64_t size() const noexcept { return device_.size(); }
    [[nodiscard]] nbd::block_sizes block_sizes() const noexcept { return device_.block_sizes(); }

    failure read(std::uint64_t offset, std::span<std::byte> to)
    {
        if (device_.aligned(to.data())) [[likely]]
            return get(offset, to);
        const auto bounce = bounce_memory();
        while (!to.empty()) {
            const auto part = bounce.first(std::min(to.size(), bounce.size()));
            if (auto failed = get(offset, part))
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
            return flags.fua ? put_durably(at, part) : device_.write(at, part);
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
    [[nodiscard]] file_range lend_file(std::uint64_t offset, std::size_t) noexcept
    {
        return device_.lend(offset);
    }

private:
    failure get(std::uint64_t offset, std::span<std::byte> to)
    {
        while (!to.empty()) {
            const auto n = System::read(device_.descriptor(), to.data(), to.size(), offset);
            if (n < 0)
                return file_failure(errno, offset);
            const auto done = static_cast<std::size_t>(n);
            offset += done;
            // The file's end, which was further away when it was opened. Direct I/O shows it by a length that is
            // no block.
            if (done == 0 || !device_.aligned(0, done))
                return file_failure(EIO, offset);
            to = to.subspan(done);
        }
        return {};
    }

    failure put_durably(std::uint64_t offset, std::span<const std::byte> from)
    {
        if (auto failed = device_.sync_state())
            return failed;
        while (!from.empty()) {
            const auto n =
                System::write_durably(device_.descriptor(), from.data(), from.size(), offset);
            if (n <= 0)
                return put_otherwise(offset, from, n < 0 ? errno : EIO);
            offset += static_cast<std::size_t>(n);
            from = from.subspan(static_cast<std::size_t>(n));
        }
        return device_.sync_succeeded();
    }
    failure put_otherwise(std::uint64_t offset, std::span<const std::byte> from, int error)
    {
        if (!device_.is_lacking(error) && error != EINVAL)
            return device_.durable_write_failed(error, offset, from);
        // The system has no such writes, or none of these data.
        auto refused = device_.write(offset, from);
        return refused ? refused : flush();
    }

    basic_file_device<System> device_;
};

using file_backend = basic_file_backend<posix_file>;

}  // namespace nbd
