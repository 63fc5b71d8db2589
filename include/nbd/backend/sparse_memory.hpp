// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <mutex>
#include <span>
#include <system_error>
#include <type_traits>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

namespace nbd {

/// A range of memory whose pages the kernel commits when they are first written. It reads as zero
/// where nothing was written. Encapsulates memfd and mmap; without memfd it is private anonymous
/// memory. Where the system refuses fallocate(2), pages are returned by madvise(2).
///
/// *Thread safety*: all members are safe from any thread. Calls on the same bytes at the same time
/// leave a mixture of their data.
class sparse_memory {
public:
    static constexpr std::uint64_t unlimited = ~std::uint64_t{0};

    /// `size`: bytes of address space. `limit`: bytes of memory that `store_new` commits at most;
    /// ignored where the system has no memfd.
    /// *Errors*: std::system_error where the address space has no room for `size` bytes.
    explicit sparse_memory(std::uint64_t size, std::uint64_t limit = unlimited)
        : size_{size}, limit_{limit}
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
        // Nothing is stored yet, so a discard changes nothing and shows what the system permits.
        if (file_ < 0 || !punch(0, page()))
            discards_by_ = release(0, page()) ? discarding::madvise : discarding::nothing;
    }

    sparse_memory(sparse_memory&& other) noexcept
        : data_{std::exchange(other.data_, nullptr)}, size_{std::exchange(other.size_, 0)},
          limit_{other.limit_}, file_{std::exchange(other.file_, -1)},
          discards_by_{other.discards_by_}
    {
    }
    sparse_memory& operator=(sparse_memory&& other) noexcept
    {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(limit_, other.limit_);
        std::swap(file_, other.file_);
        std::swap(discards_by_, other.discards_by_);
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
    /// Bytes of a page.
    [[nodiscard]] static std::uint64_t page() noexcept
    {
        static const auto bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
        return bytes;
    }
    /// Whether the limit is in force: there is a memfd, and the limit is smaller than the size.
    [[nodiscard]] bool is_limited() const noexcept { return file_ >= 0 && limit_ < size_; }
    /// The memfd; -1 for private memory.
    [[nodiscard]] int file() const noexcept { return file_; }
    [[nodiscard]] std::span<std::byte> bytes(std::uint64_t offset, std::size_t length) noexcept
    {
        return {data_ + offset, length};
    }

    // Requests of several clients may use the same bytes at the same time; the result is a mixture,
    // as on any disk. Atomic accesses keep ThreadSanitizer from reporting it.
#if defined(__SANITIZE_THREAD__)
    static constexpr bool watched_for_races = true;
#elif defined(__has_feature)
    static constexpr bool watched_for_races = __has_feature(thread_sanitizer);
#else
    static constexpr bool watched_for_races = false;
#endif
    /// Copies from the memory. Commits the pages that it reads.
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
    /// Copies from the memory by a system call, which commits nothing. Without memfd, as load().
    void load_sparse(std::uint64_t offset, std::span<std::byte> to) const noexcept
    {
        while (file_ >= 0 && !to.empty()) {
            const auto n = ::pread(file_, to.data(), to.size(), static_cast<off_t>(offset));
            if (n <= 0)
                break;
            offset += static_cast<std::uint64_t>(n);
            to = to.subspan(static_cast<std::size_t>(n));
        }
        load(offset, to);
    }
    /// Copies to memory whose pages were committed before. Elsewhere the kernel sends SIGBUS if it
    /// cannot commit a page.
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
    /// Copies to the memory by a system call and commits its pages within the limit.
    /// *Errors*: ENOSPC where the data would pass the limit; the data that other threads store at
    /// the same time count in full, even where their pages are committed already. The system's
    /// error where it has no more memory; part of the data may be stored then.
    [[nodiscard]] std::error_code store_new(std::uint64_t offset,
                                            std::span<const std::byte> from) noexcept
    {
        const auto first = offset / page() * page();
        auto reserved = (offset + from.size() + page() - 1) / page() * page() - first;
        // Which pages are committed already matters only near the limit, so the kernel is asked
        // only there.
        if (is_limited() && !reserve(reserved) && !reserve(reserved = uncommitted(first, reserved)))
            return std::make_error_code(std::errc::no_space_on_device);
        int error = 0;
        while (file_ >= 0 && !from.empty() && error == 0) {
            auto n = ::pwrite(file_, from.data(), from.size(), static_cast<off_t>(offset));
            if (n < 0 && errno != EINTR && errno != ENOSPC) {  // the system may refuse pwrite
                const ::iovec part{const_cast<std::byte*>(from.data()), from.size()};
                n = ::pwritev(file_, &part, 1, static_cast<off_t>(offset));
            }
            if (n < 0 && errno != EINTR)
                error = errno;
            const auto done = n < 0 ? std::size_t{0} : static_cast<std::size_t>(n);
            offset += done;
            from = from.subspan(done);
        }
        if (is_limited()) {
            const std::lock_guard lock{mutex_};
            storing_ -= reserved;
        }
        if (error != 0)
            return {error, std::system_category()};
        if (file_ < 0)
            store(offset, from);
        return {};
    }

    /// Makes the range read as zero. Commits its pages.
    void clear(std::uint64_t offset, std::uint64_t length) noexcept
    {
        if constexpr (watched_for_races)
            for_each_word(offset, static_cast<std::size_t>(length), [](auto& word, std::size_t) {
                std::atomic_ref{word}.store({}, std::memory_order_relaxed);
            });
        else if (length != 0)
            std::memset(data_ + offset, 0, static_cast<std::size_t>(length));
    }
    /// Whether the system permits `discard`.
    [[nodiscard]] bool discards() const noexcept { return discards_by_ != discarding::nothing; }
    /// Whether it permits `discard` of a range that is not of whole pages.
    [[nodiscard]] bool discards_bytes() const noexcept
    {
        return discards_by_ == discarding::fallocate;
    }
    /// Gives a range of whole pages back to the kernel; it reads as zero afterwards. A range that
    /// is not of whole pages needs `discards_bytes` and costs about a hundred times as much as
    /// `clear`. *Errors*: the system's.
    [[nodiscard]] std::error_code discard(std::uint64_t offset, std::uint64_t length) noexcept
    {
        if (length != 0 && !(discards_bytes() ? punch(offset, length) : release(offset, length)))
            return {errno, std::system_category()};
        return {};
    }

    /// Moves a range to a huge page, so that it is sent in fewer pieces. The range must be one
    /// aligned huge page in size and be all data: holes in it would be filled. *Returns* false if a
    /// later call may succeed.
    [[nodiscard]] bool make_huge([[maybe_unused]] std::uint64_t offset,
                                 [[maybe_unused]] std::uint64_t length) noexcept
    {
#ifdef __linux__
        if (file_ < 0)
            return true;
        constexpr int collapse = 25;  // MADV_COLLAPSE (Linux 6.1); older C libraries lack the name
        return ::madvise(data_ + offset, static_cast<std::size_t>(length), collapse) == 0
            || errno != EAGAIN;  // pages of it are in use just now
#else
        return true;
#endif
    }

private:
    /// Maps all of it, aligned to a huge page if it is that large.
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
    /// Counts `length` bytes as about to be committed. *Returns* false, and counts nothing, where
    /// that would pass the limit.
    [[nodiscard]] bool reserve(std::uint64_t length) noexcept
    {
        if (length == 0)
            return true;
        const std::lock_guard lock{mutex_};
        struct stat about {};
        if (::fstat(file_, &about) != 0
            || static_cast<std::uint64_t>(about.st_blocks) * 512 + storing_ + length > limit_)
            return false;
        storing_ += length;
        return true;
    }
    /// *Returns* the bytes of the pages in the range that are not committed.
    [[nodiscard]] std::uint64_t uncommitted(std::uint64_t offset,
                                            std::uint64_t length) const noexcept
    {
        std::array<unsigned char, 4096> present;
        std::uint64_t missing = 0;
        while (length != 0) {
            const auto part = std::min(length, present.size() * page());
            const auto pages = static_cast<std::ptrdiff_t>((part + page() - 1) / page());
            if (::mincore(data_ + offset, static_cast<std::size_t>(part), present.data()) != 0)
                return missing + length;
            missing += page()
                * static_cast<std::uint64_t>(
                           std::count_if(present.begin(), present.begin() + pages,
                                         [](unsigned char p) { return (p & 1) == 0; }));
            offset += part;
            length -= part;
        }
        return missing;
    }
    /// Visits the range in aligned words, and in bytes where it has no whole word.
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
        return ::fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                           static_cast<off_t>(offset), static_cast<off_t>(length))
            == 0;
#else
        return (void)offset, (void)length, errno = ENOTSUP, false;
#endif
    }
    /// Discards whole pages without fallocate.
    [[nodiscard]] bool release(std::uint64_t offset, std::uint64_t length) noexcept
    {
#ifdef MADV_REMOVE
        const int advice = file_ >= 0 ? MADV_REMOVE : MADV_DONTNEED;
#else
        const int advice = MADV_DONTNEED;
        if (file_ >= 0)
            return errno = ENOTSUP, false;
#endif
        return ::madvise(data_ + offset, static_cast<std::size_t>(length), advice) == 0;
    }

    enum class discarding : unsigned char { fallocate, madvise, nothing };

    std::byte* data_ = nullptr;
    std::uint64_t size_;
    std::uint64_t limit_;
    int file_ = -1;
    discarding discards_by_ = discarding::fallocate;
    std::mutex mutex_;           ///< for storing_
    std::uint64_t storing_ = 0;  ///< bytes that calls of store_new are about to commit
};

}  // namespace nbd
