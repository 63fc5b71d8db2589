// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/handler_memory.hpp>

#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/post.hpp>

#include <cstddef>
#include <mutex>
#include <utility>

namespace nbd::io {

/// Passes items from any thread to the executor of their owner, in the order of the calls. Each
/// item has a member `next`, a pointer to its own type.
/// *Thread safety*: any thread may call `put`.
/// *Lifetime*: the owner lives until it has received every item that it expects.
template <class Executor, class Item>
class handoff {
public:
    explicit handoff(const Executor& owner) : executor_{owner} {}

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
