// SPDX-License-Identifier: MIT
#pragma once

#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/post.hpp>

#include <atomic>
#include <cassert>
#include <cstddef>
#include <mutex>
#include <utility>

namespace nbd::io {

/// Memory for one handler at a time, so that posting it allocates nothing. The memory of a handler that is queued
/// outlives this object: a context that is destroyed destroys its handlers in any order.
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

/// Passes items from any thread to the executor of their owner, in the order of the calls. Each
/// item has a member `next`, a pointer to its own type.
/// *Thread safety*: any thread may call `put`.
/// *Lifetime*: the owner lives until it has received every item that it expects.
template <class Executor, class Item>
class handoff {
public:
    explicit handoff(const Executor& executor) : executor_{executor} {}

    /// Queues `item` and calls `receive(first)` on the executor, once for all items that were
    /// queued by then, linked through `next`.
    template <class Receive>
    void put(Item& item, Receive receive)
    {
        {
            const std::lock_guard lock{mutex_};
            item.next = nullptr;
            (last_ == nullptr ? first_ : last_->next) = &item;
            last_ = &item;
            if (std::exchange(posted_, true))
                return;
        }
        // The last use of this object: once the handler is posted, the owner may destroy the
        // object.
        boost::asio::post(
            executor_,
            boost::asio::bind_allocator(handler_memory::allocator<std::byte>{memory_},
                                        [this, receive]() mutable { receive(take()); }));
    }

private:
    [[nodiscard]] Item* take() noexcept
    {
        const std::lock_guard lock{mutex_};
        posted_ = false;
        last_ = nullptr;
        return std::exchange(first_, nullptr);
    }

    Executor executor_;
    handler_memory memory_;
    std::mutex mutex_;
    Item* first_ = nullptr;
    Item* last_ = nullptr;
    bool posted_ = false;
};

}  // namespace nbd::io
