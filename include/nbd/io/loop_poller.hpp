// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/busy_poll.hpp>
#include <nbd/io/handler_memory.hpp>

#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <thread>
#include <utility>

namespace nbd::io {

/// Makes the event loop of an io_context poll for a short time instead of sleeping in the kernel,
/// which saves the time to wake the thread. A handler that posts itself again keeps the loop from
/// waiting: Asio asks the kernel for events without a timeout while handlers are queued. Nothing is
/// allocated.
///
/// It is a service of its context, created for the first session that polls. The library does not
/// poll on contexts that the program runs.
/// *Thread safety*: only the thread that runs the context, which must be a single one.
class loop_poller : public boost::asio::execution_context::service {
public:
    using clock = std::chrono::steady_clock;
    static inline boost::asio::execution_context::id id{};
    using key_type = loop_poller;

    explicit loop_poller(boost::asio::io_context& context) : service{context}, context_{context} {}
    ~loop_poller() override { end(); }

    /// *Returns* the poller of an executor's context. *Errors*: std::bad_alloc when it must be
    /// created.
    [[nodiscard]] static loop_poller& of(const boost::asio::io_context::executor_type& executor)
    {
        return boost::asio::use_service<loop_poller>(executor.context());
    }

    /// Keeps the loop from sleeping until `budget` has passed, unless so many threads poll that no
    /// processor would be left for others.
    void poll_for(clock::duration budget)
    {
        if (!polling_ && !busy_poll::begin_to_poll())
            return;
        polling_ = true;
        until_ = std::max(until_, clock::now() + budget);
        if (!posted_)
            post();
    }

private:
    void shutdown() noexcept override {}

    void post()
    {
        boost::asio::post(
            context_,
            boost::asio::bind_allocator(handler_memory::allocator<std::byte>{memory_}, [this] {
                posted_ = false;
                if (clock::now() >= until_)
                    return end();
                std::this_thread::yield();  // the client may need this processor
                post();
            }));
        posted_ = true;
    }
    void end() noexcept
    {
        if (std::exchange(polling_, false))
            busy_poll::end_to_poll();
    }

    boost::asio::io_context& context_;
    handler_memory memory_;
    clock::time_point until_{};
    bool polling_ = false;
    bool posted_ = false;
};

}  // namespace nbd::io
