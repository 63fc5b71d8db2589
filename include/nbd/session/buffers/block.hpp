// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <span>
#include <utility>

namespace nbd::session {

/// Memory for the bytes of requests, from a stock that each thread keeps: taken and given back without
/// the heap while the sizes repeat, and held only while it is needed, so that idle connections
/// hold none. It begins at a page, as direct I/O likes it.
/// Thread safety: as an int; it may be given back on another thread than it was taken on.
class block {
public:
    block() = default;
    /// At least `n` bytes, of any content. Errors: std::bad_alloc.
    explicit block(std::size_t n)
    {
        if (n == 0)
            return;
        const auto kind = kind_of(n);
        size_ = kind < kinds ? smallest << kind : n;
        shelf* const s = kind < kinds ? stock() : nullptr;
        if (s != nullptr && s->first[kind] != nullptr) {
            data_ =
                reinterpret_cast<std::byte*>(std::exchange(s->first[kind], s->first[kind]->next));
            s->bytes -= size_;
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
        shelf* const s = kind < kinds ? stock() : nullptr;
        if (s != nullptr && s->bytes + size_ <= most_kept) {
            s->first[kind] = ::new (data_) link{s->first[kind]};
            s->bytes += size_;
        } else {
            std::free(data_);
        }
    }

    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] std::byte* data() const noexcept { return data_; }
    [[nodiscard]] std::span<std::byte> first(std::size_t n) const noexcept { return {data_, n}; }

private:
    static constexpr std::size_t smallest = std::size_t{4} << 10;
    static constexpr std::size_t kinds = 9;  ///< powers of two, up to 1 MiB
    static constexpr std::size_t page = 4096;
    /// In the stock of one thread.
    static constexpr std::size_t most_kept = std::size_t{8} << 20;

    struct link {
        link* next;
    };
    struct shelf {
        std::array<link*, kinds> first{};
        std::size_t bytes = 0;
        shelf() = default;
        shelf(const shelf&) = delete;
        shelf& operator=(const shelf&) = delete;
        ~shelf()
        {
            for (auto* l : first)
                while (l != nullptr)
                    std::free(std::exchange(l, l->next));
            thread_ends = true;
        }
    };
    /// Of this thread; none when it ends.
    [[nodiscard]] static shelf* stock() noexcept
    {
        static thread_local shelf mine;
        return thread_ends ? nullptr : &mine;
    }
    static inline thread_local bool thread_ends = false;
    [[nodiscard]] static constexpr std::size_t kind_of(std::size_t n) noexcept
    {
        return n <= smallest
            ? 0
            : static_cast<std::size_t>(std::bit_width(n - 1) - std::bit_width(smallest - 1));
    }
    [[nodiscard]] static void* allocate(std::size_t n)
    {
        void* const made = std::aligned_alloc(page, (n + page - 1) / page * page);
        if (made == nullptr)
            throw std::bad_alloc{};
        return made;
    }

    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace nbd::session
