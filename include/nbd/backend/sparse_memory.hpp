// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <system_error>
#include <type_traits>
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
        void* const at = map();
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
    /// The file that the memory is, if it is one; else -1.
    [[nodiscard]] int file() const noexcept { return file_; }
    [[nodiscard]] std::span<std::byte> bytes(std::uint64_t offset, std::size_t length) noexcept
    {
        return {data_ + offset, length};
    }

    // Requests of several clients may use the same bytes at the same time, and then leave a mixture, as
    // on any disk. That is theirs to avoid, so ThreadSanitizer is not to report it.
#if defined(__SANITIZE_THREAD__)
    static constexpr bool watched_for_races = true;
#elif defined(__has_feature)
    static constexpr bool watched_for_races = __has_feature(thread_sanitizer);
#else
    static constexpr bool watched_for_races = false;
#endif
    /// Copies from the memory and to it; other threads may use the same bytes at the same time.
    void load(std::uint64_t offset, std::span<std::byte> to) const noexcept
    {
        if constexpr (watched_for_races)
            for_each_word(offset, to.size(), [&](auto& word, std::size_t at) {
                const auto value = std::atomic_ref{word}.load(std::memory_order_relaxed);
                std::memcpy(to.data() + at, &value, sizeof(value));
            });
        else if (!to.empty())
            std::memcpy(to.data(), data_ + offset, to.size());
    }
    void store(std::uint64_t offset, std::span<const std::byte> from) noexcept
    {
        if constexpr (watched_for_races)
            for_each_word(offset, from.size(), [&](auto& word, std::size_t at) {
                std::remove_reference_t<decltype(word)> value;
                std::memcpy(&value, from.data() + at, sizeof(value));
                std::atomic_ref{word}.store(value, std::memory_order_relaxed);
            });
        else if (!from.empty())
            std::memcpy(data_ + offset, from.data(), from.size());
    }

    /// Makes the range read as zero. Whole pages go back to the kernel unless they are to be kept.
    [[nodiscard]] std::error_code zero(std::uint64_t offset, std::uint64_t length, bool keep)
    {
        const auto end = offset + length;
        const auto first = std::min((offset + page() - 1) / page() * page(), end);
        const auto last = std::max(end / page() * page(), first);
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

    /// Moves the range, which has the size of a huge page, begins at one and is all data, to such a page:
    /// it is sent in fewer pieces then. Holes in it would be filled. False where it may be possible later.
    [[nodiscard]] bool make_huge([[maybe_unused]] std::uint64_t offset,
                                 [[maybe_unused]] std::uint64_t length) noexcept
    {
#ifdef __linux__
        if (file_ < 0)
            return true;
        constexpr int collapse = 25;  // MADV_COLLAPSE (Linux 6.1), which C libraries learn slowly
        return ::madvise(data_ + offset, static_cast<std::size_t>(length), collapse) == 0
            || errno != EAGAIN;  // pages of it are in use just now
#else
        return true;
#endif
    }

private:
    /// A place for all of it, at the border of a huge page if it is that large.
    [[nodiscard]] void* map() const noexcept
    {
        const auto size = static_cast<std::size_t>(size_);
        const auto mapped = [&](void* at, int flags) {
            flags |= file_ >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS;
            return ::mmap(at, size, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, file_, 0);
        };
        constexpr std::size_t huge_page = std::size_t{2} << 20;
        if (size < huge_page)
            return mapped(nullptr, 0);
        const auto room = size + huge_page;
        void* const taken =
            ::mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (taken == MAP_FAILED)
            return mapped(nullptr, 0);
        auto* const first = static_cast<std::byte*>(taken);
        const auto before = -reinterpret_cast<std::uintptr_t>(taken) % huge_page;
        const auto used = before + (size + page() - 1) / page() * page();
        void* const at = mapped(first + before, MAP_FIXED);
        if (at == MAP_FAILED) {
            const int error = errno;
            ::munmap(taken, room);
            errno = error;
            return at;
        }
        if (before != 0)
            ::munmap(taken, before);
        if (used < room)
            ::munmap(first + used, room - used);
        return at;
    }
    [[nodiscard]] static std::size_t page() noexcept
    {
        static const auto bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
        return bytes;
    }
    void clear(std::uint64_t from, std::uint64_t to) noexcept
    {
        if constexpr (watched_for_races)
            for_each_word(from, static_cast<std::size_t>(to - from), [](auto& word, std::size_t) {
                std::atomic_ref{word}.store({}, std::memory_order_relaxed);
            });
        else if (from != to)
            std::memset(data_ + from, 0, static_cast<std::size_t>(to - from));
    }
    /// Visits the range in words where it has whole ones, else in bytes.
    template <class Visit>
    void for_each_word(std::uint64_t offset, std::size_t n, Visit visit) const
    {
        constexpr auto word = sizeof(std::uint64_t);
        for (std::size_t at = 0; at != n;) {
            std::byte* const byte = data_ + offset + at;
            if ((offset + at) % word == 0 && n - at >= word) {
                visit(*reinterpret_cast<std::uint64_t*>(byte), at);
                at += word;
            } else {
                visit(*byte, at++);
            }
        }
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
