// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/threading_policy.hpp>
#include <nbd/threading/launch.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>

#include <algorithm>
#include <condition_variable>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

namespace nbd {

/// One thread for each client, with blocking system calls: the lowest latency, and the highest
/// throughput for a few busy clients. A call of a `parallel` backend that blocks delays only its
/// own client.
class per_client_threads {
public:
    using executor_type = boost::asio::io_context::executor_type;
    static constexpr bool blocking = true;

    void start() {}

    /// No thread runs this context: blocking calls do not need it.
    [[nodiscard]] executor_type next_executor() { return state_->sockets.get_executor(); }

    template <class Session>
    void launch(const executor_type&, Session session) noexcept
    {
        try {
            const std::lock_guard lock{state_->mutex};
            const auto self = state_->running.emplace(state_->running.end());
            try {
                *self =
                    std::thread{[state = state_.get(), self, own = std::move(session)]() mutable {
                        run(std::move(own));
                        state->retire(self);
                    }};
            } catch (...) {
                state_->running.erase(self);
                throw;
            }
        } catch (...) {  // no thread: the destructor of `session` reports the end
        }
    }

    [[nodiscard]] bool runs_here() const
    {
        const std::lock_guard lock{state_->mutex};
        return std::any_of(state_->running.begin(), state_->running.end(), [](const auto& thread) {
            return thread.get_id() == std::this_thread::get_id();
        });
    }

    void join()
    {
        std::unique_lock lock{state_->mutex};
        state_->all_retired.wait(lock, [this] { return state_->running.empty(); });
        if (state_->retired.joinable())
            state_->retired.join();
    }

private:
    template <class Session>
    static void run(Session session) noexcept
    {
        threading::block_sigpipe();
        try {
            session().get();
        } catch (...) {  // ends this session only
        }
    }

    struct state {
        boost::asio::io_context sockets;
        // Creates the context's descriptors now, not when the first client connects.
        boost::asio::posix::basic_stream_descriptor<executor_type> first_user{sockets};
        std::mutex mutex;
        std::condition_variable all_retired;
        std::list<std::thread> running;
        std::thread retired;

        /// Called by a thread at its end. A thread cannot join itself, so it joins the thread that
        /// ended before it and leaves its own handle to the next one. At most one ended thread is
        /// kept.
        void retire(std::list<std::thread>::iterator self)
        {
            std::thread before;
            {
                const std::lock_guard lock{mutex};
                before = std::exchange(retired, std::move(*self));
                running.erase(self);
                if (running.empty())
                    all_retired.notify_all();
            }
            if (before.joinable())
                before.join();
        }
    };

    std::unique_ptr<state> state_ = std::make_unique<state>();
};

}  // namespace nbd
