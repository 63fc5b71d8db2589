// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstddef>
#include <new>

namespace nbd::io {

/// Memory for one handler at a time, so that posting it allocates nothing. The memory of a queued
/// handler outlives this object, because a context that ends destroys its handlers in any order.
/// *Errors*: the constructor throws std::bad_alloc.
class handler_memory {
    struct block {
        alignas(std::max_align_t) std::byte bytes[256];
        std::atomic<int> owners{1};
        bool used = false;

        void release() noexcept
        {
            if (owners.fetch_sub(1, std::memory_order_acq_rel) == 1)
                delete this;
        }
    };

public:
    handler_memory() : block_{new block} {}
    handler_memory(const handler_memory&) = delete;
    handler_memory& operator=(const handler_memory&) = delete;
    ~handler_memory() { block_->release(); }

    template <class T>
    class allocator {
    public:
        using value_type = T;

        explicit allocator(handler_memory& m) noexcept : block_{m.block_} {}
        template <class U>
        allocator(const allocator<U>& other) noexcept : block_{other.block_}
        {
        }
        [[nodiscard]] T* allocate(std::size_t n)
        {
            if (block_->used || n * sizeof(T) > sizeof(block_->bytes))
                return static_cast<T*>(::operator new(n * sizeof(T)));
            block_->used = true;
            block_->owners.fetch_add(1, std::memory_order_relaxed);
            return reinterpret_cast<T*>(block_->bytes);
        }
        void deallocate(T* p, std::size_t) noexcept
        {
            if (reinterpret_cast<std::byte*>(p) != block_->bytes)
                return ::operator delete(p);
            block_->used = false;
            block_->release();
        }
        template <class U>
        bool operator==(const allocator<U>& other) const noexcept
        {
            return block_ == other.block_;
        }

    private:
        template <class>
        friend class allocator;
        block* block_;
    };

private:
    block* block_;
};

}  // namespace nbd::io
