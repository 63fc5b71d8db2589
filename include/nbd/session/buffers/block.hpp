// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <span>
#include <utility>

#include <pthread.h>

namespace nbd::session {

/// Uninitialised memory for the bytes of requests, aligned to pages as direct I/O needs it.
///
/// Blocks of up to 1 MiB come from a stock of free blocks that each thread keeps, so that taking
/// and giving back need no heap while the sizes repeat. A stock holds at most 8 MiB, all stocks of
/// the program together at most 64 MiB. A memory budget does not charge them: they belong to no
/// client.
/// Thread safety: distinct objects: safe. Shared objects: unsafe. A block may be destroyed on
/// another thread than it was made on.
class block {
public:
    block() = default;
    /// At least `n` bytes. Errors: std::bad_alloc.
    explicit block(std::size_t n) : size_{bytes_for(n)}
    {
        if (n == 0)
            return;
        const auto kind = kind_of(n);
        if (kind < kinds && stock.first[kind] != nullptr) {
            data_ = reinterpret_cast<std::byte*>(
                std::exchange(stock.first[kind], stock.first[kind]->next));
            stock.bytes -= size_;
        } else {
            data_ = static_cast<std::byte*>(allocate(size_));
        }
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
        if (kind < kinds && stock.has_place_for(size_)) {
            stock.first[kind] = ::new (data_) link{stock.first[kind]};
            stock.bytes += size_;
        } else {
            std::free(data_);
        }
    }

    /// The size of a block for `n` bytes: a power of two from 4 KiB on, or whole pages above 1 MiB.
    [[nodiscard]] static constexpr std::size_t bytes_for(std::size_t n) noexcept
    {
        if (n == 0)
            return 0;
        const auto kind = kind_of(n);
        return kind < kinds ? smallest << kind : (n + page - 1) / page * page;
    }

    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] std::byte* data() const noexcept { return data_; }
    [[nodiscard]] std::span<std::byte> first(std::size_t n) const noexcept { return {data_, n}; }

private:
    static constexpr std::size_t smallest = std::size_t{4} << 10;
    static constexpr std::size_t kinds = 9;  ///< powers of two, up to 1 MiB
    static constexpr std::size_t page = 4096;
    /// Bytes in the stock of one thread, and in all stocks.
    static constexpr std::size_t most_kept = std::size_t{8} << 20;
    static constexpr std::size_t most_kept_by_all = std::size_t{64} << 20;
    /// A thread doubles its allowance, so that it seldom writes to the counter of all threads. It
    /// begins with so little that thousands of threads have a stock.
    static constexpr std::size_t least_step = std::size_t{16} << 10;

    struct link {
        link* next;
    };
    /// Has no destructor: to register that of a thread_local object allocates, and glibc ends the
    /// program where there is no memory for it.
    struct shelf {
        std::array<link*, kinds> first;
        std::size_t bytes;
        std::size_t allowed;
        bool is_over;  ///< the thread ends

        static void give_back(void* of_ending_thread) noexcept
        {
            auto& mine = *static_cast<shelf*>(of_ending_thread);
            for (auto* l : mine.first)
                while (l != nullptr)
                    std::free(std::exchange(l, l->next));
            allowed_to_all.fetch_sub(mine.allowed, std::memory_order_relaxed);
            mine = {};
            mine.is_over = true;
        }
        /// Whether `give_back` will be called when this thread ends.
        [[nodiscard]] bool will_be_given_back() noexcept
        {
            struct ending {
                ::pthread_key_t key{};
                bool is_made = ::pthread_key_create(&key, give_back) == 0;
            };
            static const ending of_threads;
            return of_threads.is_made && ::pthread_setspecific(of_threads.key, this) == 0;
        }
        [[nodiscard]] bool has_place_for(std::size_t n) noexcept
        {
            while (bytes + n > allowed) {
                if (allowed == most_kept || is_over || (allowed == 0 && !will_be_given_back()))
                    return false;
                const auto step = std::clamp(allowed, least_step, most_kept - allowed);
                if (allowed_to_all.fetch_add(step, std::memory_order_relaxed) + step
                    > most_kept_by_all) {
                    allowed_to_all.fetch_sub(step, std::memory_order_relaxed);
                    return false;
                }
                allowed += step;
            }
            return true;
        }
    };
    static inline std::atomic<std::size_t> allowed_to_all{0};
    static inline constinit thread_local shelf stock{};
    [[nodiscard]] static constexpr std::size_t kind_of(std::size_t n) noexcept
    {
        return n <= smallest
            ? 0
            : static_cast<std::size_t>(std::bit_width(n - 1) - std::bit_width(smallest - 1));
    }
    [[nodiscard]] static void* allocate(std::size_t n)
    {
        void* const made = std::aligned_alloc(page, n);
        if (made == nullptr)
            throw std::bad_alloc{};
        return made;
    }

    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace nbd::session
