// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/handler_memory.hpp>
#include <nbd/io/handler_tracker.hpp>

#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/bind_allocator.hpp>

#include <chrono>
#include <cstddef>
#include <utility>

namespace nbd::io {

/// Calls `Notify` 100 ms after it was armed, for a waiter whose condition has no notification. The
/// destructor cancels the call.
/// *Thread safety*: one strand, that of `on`.
template <class Executor, class Notify>
class periodic_notifier : handler_tracker {
public:
    periodic_notifier(const Executor& on, Notify notify) : timer_{on}, notify_{std::move(notify)} {}

    /// Requests a call, unless one is due. Without memory for it, none comes.
    void arm() noexcept
    {
        if (active())
            return;
        try {
            timer_.expires_after(std::chrono::milliseconds{100});
            // A context that ends destroys it without a call; the notification then ends the
            // waiter.
            timer_.async_wait(boost::asio::bind_allocator(
                handler_memory::allocator<std::byte>{memory_}, expiry{begin([](handler_tracker& t) {
                    static_cast<periodic_notifier&>(t).notify_();
                })}));
        } catch (...) {  // no memory
        }
    }

private:
    struct expiry {
        mark of;
        void operator()(const boost::system::error_code&)
        {
            if (auto* const notifier = of.release())
                static_cast<periodic_notifier*>(notifier)->notify_();
        }
    };

    boost::asio::basic_waitable_timer<std::chrono::steady_clock,
                                      boost::asio::wait_traits<std::chrono::steady_clock>, Executor>
        timer_;
    Notify notify_;
    handler_memory memory_;
};

}  // namespace nbd::io
