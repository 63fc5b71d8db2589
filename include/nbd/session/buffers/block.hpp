// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <new>
#include <span>
#include <utility>

#include <pthread.h>
#include <sys/mman.h>

namespace nbd::session {

/// Uninitialised memory for the bytes of requests, aligned to pages as direct I/O needs it.
///
/// Blocks of up to 33 MiB, the longest payload and a little more, come from a stock of free blocks
/// that each thread keeps, so that taking and giving back need no heap while the sizes repeat.
/// Behind these is one stock that all threads share. A thread takes from it what its own has not. A
/// thread that is idle gives it what it has, and one that gives back a block does where the program
/// has many blocks: the next thread that needs memory finds it there.
///
/// A block is kept unless all blocks of the program, used and free, have more than 64 MiB and the
/// `server_memory` of its servers. So the threads keep what many clients need at a time, and used
/// and free blocks share one bound. A thread frees half of what it did not need for ten seconds;
/// the shared stock all of it.
/// Thread safety: distinct objects: safe. Shared objects: unsafe. A block may be destroyed on
/// another thread than it was made on.
class block {
public:
    block() = default;
    /// At least `n` bytes. Errors: std::bad_alloc, also if less than `reserve` of address space
    /// would be left: what Asio and the backends allocate is small, and some of it must not fail.
    explicit block(std::size_t n) : size_{bytes_for(n)}
    {
        if (n == 0)
            return;
        const auto kind = kind_of(n);
        if (kind < kinds && stock.first[kind] != nullptr)
            data_ = stock.take(kind);
        else if (data_ = shared.take(kind); data_ == nullptr)
            data_ = allocate(size_);
    }
    block(block&& other) noexcept
        : data_{std::exchange(other.data_, nullptr)}, size_{std::exchange(other.size_, 0)}
    {
    }
    block& operator=(block&& other) noexcept
    {
        block old{std::move(*this)};
        data_ = std::exchange(other.data_, nullptr);
        size_ = std::exchange(other.size_, 0);
        return *this;
    }
    ~block()
    {
        if (data_ == nullptr)
            return;
        const auto kind = kind_of(size_);
        if (kind < kinds && stock.keeps())
            stock.give_back(kind, data_);
        else if (kind >= kinds || !shared.keep(kind, data_))
            release(data_, size_);
    }

    /// All stocks together may keep `n` bytes more. `keep_less` takes it back.
    static void keep_more(std::size_t n) noexcept
    {
        kept_by_all.fetch_add(n, std::memory_order_relaxed);
    }
    static void keep_less(std::size_t n) noexcept
    {
        kept_by_all.fetch_sub(n, std::memory_order_relaxed);
    }
    /// Bytes in the stock of this thread.
    [[nodiscard]] static std::size_t in_stock() noexcept { return stock.bytes; }
    /// Frees half of what this thread had in stock all the time since the last call.
    static void free_unused() noexcept { stock.free_unused(stock.unused / 2); }
    /// A thread that is idle for this time shares its stock if it holds much.
    static constexpr std::chrono::milliseconds idle_after{1000};
    [[nodiscard]] static bool holds_much() noexcept { return stock.bytes > std::size_t{64} << 10; }
    static void share_stock() noexcept { shared.take_all(stock); }

    /// Bytes in the shared stock.
    [[nodiscard]] static std::size_t in_shared_stock() noexcept { return shared.size(); }
    /// Frees what was in the shared stock all the time for ten seconds. The servers call it now and
    /// then.
    static void look_at_shared_stock(std::time_t now = seconds()) noexcept { shared.look(now); }
    static void free_shared_stock() noexcept { shared.free_all(); }

    /// The size of a block for `n` bytes: a power of two from 4 KiB to 1 MiB, then whole MiB up to
    /// 33, then whole pages.
    [[nodiscard]] static constexpr std::size_t bytes_for(std::size_t n) noexcept
    {
        if (n == 0)
            return 0;
        const auto kind = kind_of(n);
        return kind < kinds ? size_of(kind) : (n + page - 1) / page * page;
    }

    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] std::byte* data() const noexcept { return data_; }
    [[nodiscard]] std::span<std::byte> first(std::size_t n) const noexcept { return {data_, n}; }

    /// Of a clock that never goes back.
    [[nodiscard]] static std::time_t seconds() noexcept
    {
        ::timespec now{};
        ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        return now.tv_sec;
    }

private:
    static constexpr std::size_t smallest = std::size_t{4} << 10;
    static constexpr std::size_t mib = std::size_t{1} << 20;
    static constexpr std::size_t last_power = 8;           ///< the kind of 1 MiB
    static constexpr std::size_t kinds = last_power + 33;  ///< each further one has 1 MiB more
    static constexpr std::size_t page = 4096;
    static constexpr std::size_t largest_small = std::size_t{64} << 10;

    struct link {
        link* next;
    };
    /// Free blocks. It has no destructor: to register that of a thread_local object allocates, and
    /// glibc ends the program where there is no memory for it.
    struct shelf {
        std::array<link*, kinds> first;
        std::size_t bytes;
        std::size_t unused;     ///< the least value of `bytes` since `looked_at`
        std::time_t looked_at;  ///< 0 = never

        [[nodiscard]] std::byte* take(std::size_t kind) noexcept
        {
            bytes -= size_of(kind);
            unused = std::min(unused, bytes);
            return reinterpret_cast<std::byte*>(std::exchange(first[kind], first[kind]->next));
        }
        void add(std::size_t kind, void* data) noexcept
        {
            first[kind] = ::new (data) link{first[kind]};
            bytes += size_of(kind);
        }
        /// Whether `unused` is the least value of ten seconds. Begins the next ten then.
        [[nodiscard]] bool is_time(std::time_t now) noexcept
        {
            if (now - looked_at < seconds_of_use)
                return false;
            const bool first_look = looked_at == 0;
            looked_at = now;
            if (first_look)
                unused = bytes;
            return !first_look;
        }
        /// Frees about `enough` of the bytes that are unused.
        void free_unused(std::size_t enough) noexcept
        {
            std::size_t freed = 0;
            for (auto kind = kinds; kind-- > 0;)
                while (freed < enough && first[kind] != nullptr
                       && freed + size_of(kind) <= unused) {
                    freed += size_of(kind);
                    free_one(kind);
                }
            unused = bytes;
        }
        void clear() noexcept
        {
            for (std::size_t kind = 0; kind < kinds; ++kind)
                while (first[kind] != nullptr)
                    free_one(kind);
            unused = 0;
        }
        void free_one(std::size_t kind) noexcept
        {
            bytes -= size_of(kind);
            release(std::exchange(first[kind], first[kind]->next), size_of(kind));
        }
    };
    /// The stock of one thread.
    struct own_shelf : shelf {
        unsigned returns;  ///< blocks that were given back
        bool ends;         ///< `end` will be called when this thread ends
        bool is_over;      ///< the thread ends

        void give_back(std::size_t kind, void* data) noexcept
        {
            add(kind, data);
            if (++returns % 64 == 0 && is_time(seconds()))
                block::free_unused();
        }
        /// Not where the program has many blocks: other threads may need this one sooner. So all
        /// these stocks leave room for the blocks in use, which servers bound by server_memory.
        [[nodiscard]] bool keeps() noexcept
        {
            if (existing.load(std::memory_order_relaxed)
                > kept_by_all.load(std::memory_order_relaxed) / 4)
                return false;
            return ends || (!is_over && will_end());
        }

        static void end(void* of_ending_thread) noexcept
        {
            auto& mine = *static_cast<own_shelf*>(of_ending_thread);
            mine.clear();
            mine.ends = false;
            mine.is_over = true;
        }
        [[nodiscard]] bool will_end() noexcept
        {
            struct thread_end {
                ::pthread_key_t key{};
                bool is_made = ::pthread_key_create(&key, end) == 0;
            };
            static const thread_end of_threads;
            ends = of_threads.is_made && ::pthread_setspecific(of_threads.key, this) == 0;
            return ends;
        }
    };
    /// The stock that the threads share. Thread safety: any member function from any thread.
    struct shared_shelf {
        std::mutex mutex;
        shelf blocks;

        /// *Returns* null where it has none.
        [[nodiscard]] std::byte* take(std::size_t kind) noexcept
        {
            if (kind >= kinds)
                return nullptr;
            const std::lock_guard lock{mutex};
            return blocks.first[kind] == nullptr ? nullptr : blocks.take(kind);
        }
        /// *Returns* false where the program has too many blocks.
        [[nodiscard]] bool keep(std::size_t kind, void* data) noexcept
        {
            if (existing.load(std::memory_order_relaxed)
                > kept_by_all.load(std::memory_order_relaxed))
                return false;
            const std::lock_guard lock{mutex};
            blocks.add(kind, data);
            return true;
        }
        void take_all(shelf& from) noexcept
        {
            const std::lock_guard lock{mutex};
            for (std::size_t kind = 0; kind < kinds; ++kind)
                while (from.first[kind] != nullptr)
                    blocks.add(kind, from.take(kind));
        }
        [[nodiscard]] std::size_t size() noexcept
        {
            const std::lock_guard lock{mutex};
            return blocks.bytes;
        }
        void look(std::time_t now) noexcept
        {
            const std::lock_guard lock{mutex};
            if (blocks.is_time(now))
                blocks.free_unused(blocks.unused);
        }
        void free_all() noexcept
        {
            const std::lock_guard lock{mutex};
            blocks.clear();
        }
    };
    static constexpr std::time_t seconds_of_use = 10;
    static inline std::atomic<std::size_t> existing{0};  ///< bytes of all blocks
    static inline std::atomic<std::size_t> kept_by_all{std::size_t{64} << 20};
    static inline constinit thread_local own_shelf stock{};
    static inline constinit shared_shelf shared{};
    [[nodiscard]] static constexpr std::size_t kind_of(std::size_t n) noexcept
    {
        if (n > mib)
            return last_power + (n - 1) / mib;
        return n <= smallest
            ? 0
            : static_cast<std::size_t>(std::bit_width(n - 1) - std::bit_width(smallest - 1));
    }
    [[nodiscard]] static constexpr std::size_t size_of(std::size_t kind) noexcept
    {
        return kind <= last_power ? smallest << kind : (kind - last_power + 1) * mib;
    }
    static constexpr std::size_t reserve = 16 * mib;
    /// Whether the process can still map `reserve` bytes (RLIMIT_AS, overcommit).
    [[nodiscard]] static bool leaves_reserve() noexcept
    {
        void* const probe =
            ::mmap(nullptr, reserve, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return probe != MAP_FAILED && ::munmap(probe, reserve) == 0;
    }
    [[nodiscard]] static std::byte* allocate(std::size_t n)
    {
        void* const made = std::aligned_alloc(page, n);
        if (made == nullptr)
            throw std::bad_alloc{};
        if (n > largest_small && !leaves_reserve()) {
            std::free(made);
            throw std::bad_alloc{};
        }
        existing.fetch_add(n, std::memory_order_relaxed);
        return static_cast<std::byte*>(made);
    }
    static void release(void* made, std::size_t n) noexcept
    {
        existing.fetch_sub(n, std::memory_order_relaxed);
        std::free(made);
    }

    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace nbd::session
