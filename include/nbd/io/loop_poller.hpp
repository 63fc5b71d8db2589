// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/handler_memory.hpp>

#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <thread>

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

    /// *Returns* the poller of an executor's context. *Errors*: std::bad_alloc when it must be
    /// created.
    [[nodiscard]] static loop_poller& of(const boost::asio::io_context::executor_type& executor)
    {
        return boost::asio::use_service<loop_poller>(executor.context());
    }

    /// Keeps the loop from sleeping until `budget` has passed.
    void poll_for(clock::duration budget)
    {
        until_ = std::max(until_, clock::now() + budget);
        if (!polling_)
            post();
    }

private:
    void shutdown() noexcept override {}

    void post()
    {
        boost::asio::post(
            context_,
            boost::asio::bind_allocator(handler_memory::allocator<std::byte>{memory_}, [this] {
                polling_ = false;
                if (clock::now() >= until_)
                    return;
                std::this_thread::yield();  // the client may need this processor
                post();
            }));
        polling_ = true;
    }

    boost::asio::io_context& context_;
    handler_memory memory_;
    clock::time_point until_{};
    bool polling_ = false;
};

}  // namespace nbd::io
