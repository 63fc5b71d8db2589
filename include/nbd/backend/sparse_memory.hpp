// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace nbd {

/// Memory that the kernel gives page by page as it is written, and takes back: the door to memfd and
/// mmap. Reads as zero where nothing was written. Where the system has no memfd, or cannot punch
/// holes in it, private memory does the same.
/// Thread safety: as plain memory.
class sparse_memory {
public:
    /// Errors: std::system_error where the address space does not hold `size` bytes.
    explicit sparse_memory(std::uint64_t size) : size_{size}
    {
        if (size == 0)
            return;
        if (size > std::uint64_t{std::numeric_limits<std::ptrdiff_t>::max()})
            throw std::system_error{ENOMEM, std::system_category(), "nbd: mem_backend: size"};
#ifdef MFD_CLOEXEC
        file_ = ::memfd_create("nbd", MFD_CLOEXEC);
        if (file_ >= 0 && ::ftruncate(file_, static_cast<off_t>(size)) != 0)
            ::close(std::exchange(file_, -1));
#endif
        const int flags = file_ >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
        void* const at = ::mmap(nullptr, static_cast<std::size_t>(size), PROT_READ | PROT_WRITE,
                                flags | MAP_NORESERVE, file_, 0);
        if (at == MAP_FAILED) {
            const int error = errno;
            if (file_ >= 0)
                ::close(file_);
            throw std::system_error{error, std::system_category(), "nbd: mem_backend: size"};
        }
        data_ = static_cast<std::byte*>(at);
    }

    sparse_memory(sparse_memory&& other) noexcept
        : data_{std::exchange(other.data_, nullptr)}, size_{std::exchange(other.size_, 0)},
          file_{std::exchange(other.file_, -1)}
    {
    }
    sparse_memory& operator=(sparse_memory&& other) noexcept
    {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(file_, other.file_);
        return *this;
    }
    ~sparse_memory()
    {
        if (data_ != nullptr)
            ::munmap(data_, static_cast<std::size_t>(size_));
        if (file_ >= 0)
            ::close(file_);
    }

    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    [[nodiscard]] std::span<std::byte> bytes(std::uint64_t offset, std::size_t length) noexcept
    {
        return {data_ + offset, length};
    }

    /// Makes the range read as zero. Whole pages go back to the kernel unless they are to be kept.
    [[nodiscard]] std::error_code zero(std::uint64_t offset, std::uint64_t length, bool keep)
    {
        static const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
        const auto end = offset + length;
        const auto first = std::min((offset + page - 1) / page * page, end);
        const auto last = std::max(end / page * page, first);
        if (keep) {
            clear(offset, end);
            return {};
        }
        clear(offset, first);
        clear(last, end);
        if (first == last)
            return {};
        if (!punch(first, last - first))
            return {errno, std::system_category()};
        return {};
    }

    /// The end of the data, or of the hole, that `offset` lies in, but at most `end`; and which of the
    /// two it is. Where the system does not tell, all is data.
    struct part {
        std::uint64_t end = 0;
        bool hole = false;
    };
    [[nodiscard]] part part_at(std::uint64_t offset, std::uint64_t end) const noexcept
    {
#ifdef SEEK_HOLE
        if (file_ >= 0) {
            const auto data = ::lseek(file_, static_cast<off_t>(offset), SEEK_DATA);
            if (data < 0)
                return {end, errno == ENXIO};
            if (static_cast<std::uint64_t>(data) > offset)
                return {std::min(static_cast<std::uint64_t>(data), end), true};
            const auto hole = ::lseek(file_, static_cast<off_t>(offset), SEEK_HOLE);
            if (hole > data)
                return {std::min(static_cast<std::uint64_t>(hole), end), false};
        }
#endif
        return {end, false};
    }

private:
    void clear(std::uint64_t from, std::uint64_t to) noexcept
    {
        if (from != to)
            std::memset(data_ + from, 0, static_cast<std::size_t>(to - from));
    }
    [[nodiscard]] bool punch(std::uint64_t offset, std::uint64_t length) noexcept
    {
#ifdef FALLOC_FL_PUNCH_HOLE
        if (file_ >= 0)
            return ::fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               static_cast<off_t>(offset), static_cast<off_t>(length))
                == 0;
#endif
        // Private anonymous memory that is given back reads as zero again.
        return ::madvise(data_ + offset, static_cast<std::size_t>(length), MADV_DONTNEED) == 0;
    }

    std::byte* data_ = nullptr;
    std::uint64_t size_;
    int file_ = -1;
};

}  // namespace nbd
