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

namespace nbd::io {

/// Makes the event loop of an io_context poll for a short time instead of sleeping in the kernel,
/// which saves the time to wake the thread. A handler that posts itself again keeps the loop from
/// waiting: Asio asks the kernel for events without a timeout while handlers are queued. Nothing is
/// allocated.
///
/// Polling ends as soon as another thread needs the processor, and begins less often then. It is a
/// service of its context, created for the first session that polls. The library does not poll on
/// contexts that the program runs. `LetOthersRun`: see give_way.
/// *Thread safety*: only the thread that runs the context, which must be a single one.
template <class LetOthersRun>
class basic_loop_poller : public boost::asio::execution_context::service {
public:
    using clock = std::chrono::steady_clock;
    static inline boost::asio::execution_context::id id{};
    using key_type = basic_loop_poller;

    explicit basic_loop_poller(boost::asio::io_context& context)
        : service{context}, context_{context}
    {
    }
    ~basic_loop_poller() override
    {
        if (posted_)
            awake_threads::remove();
    }

    /// *Returns* the poller of an executor's context. *Errors*: std::bad_alloc when it must be
    /// created.
    [[nodiscard]] static basic_loop_poller&
    of(const boost::asio::io_context::executor_type& executor)
    {
        return boost::asio::use_service<basic_loop_poller>(executor.context());
    }

    /// Keeps the loop from sleeping until `budget` has passed. Does nothing while too many threads
    /// are awake, and up to 64 times after a poll was given up.
    void poll_for(clock::duration budget)
    {
        if (pause_ != 0) {
            --pause_;
            return;
        }
        until_ = std::max(until_, clock::now() + budget);
        if (posted_)
            return;
        awake_threads::add();
        if (awake_threads::leave_room())
            post();
        else
            awake_threads::remove();
    }

private:
    static constexpr unsigned most_failures = 6;

    void shutdown() noexcept override {}

    /// Requires that this thread counts as awake.
    void post()
    {
        try {
            boost::asio::post(
                context_,
                boost::asio::bind_allocator(handler_memory::allocator<std::byte>{memory_}, [this] {
                    if (poll())
                        return post();
                    posted_ = false;
                    awake_threads::remove();
                }));
        } catch (...) {
            posted_ = false;
            awake_threads::remove();
            throw;
        }
        posted_ = true;
    }
    /// *Returns* whether to go on.
    [[nodiscard]] bool poll() noexcept
    {
        if (clock::now() >= until_) {
            failures_ = 0;
            return false;
        }
        if (!let_others_run_() && awake_threads::leave_room())
            return true;
        until_ = {};
        pause_ = 1U << failures_;
        failures_ = std::min(failures_ + 1, most_failures);
        return false;
    }

    boost::asio::io_context& context_;
    handler_memory memory_;
    clock::time_point until_{};
    unsigned pause_ = 0;     ///< calls of poll_for that do nothing
    unsigned failures_ = 0;  ///< polls given up in a row
    bool posted_ = false;
    [[no_unique_address]] LetOthersRun let_others_run_;
};
using loop_poller = basic_loop_poller<give_way>;

}  // namespace nbd::io
