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

/// A thread for each client, which blocks in its system calls: the least latency, and the most
/// throughput for a few busy clients. A backend that may be called by several of them at once delays
/// its own client alone when it blocks.
class per_client_threads {
public:
    using executor_type = boost::asio::io_context::executor_type;
    static constexpr bool blocking = true;

    void start() {}

    /// Sockets live on a context that nobody runs: blocking calls need none of it.
    [[nodiscard]] executor_type next_executor() { return state_->sockets.get_executor(); }

    template <class MakeTask, class Done>
    void launch(const executor_type&, MakeTask make_task, Done done) noexcept
    {
        try {
            const std::lock_guard lock{state_->mutex};
            const auto self = state_->running.emplace(state_->running.end());
            try {
                *self = std::thread{[state = state_.get(), self, make_task, done]() mutable {
                    threading::block_sigpipe();
                    try {
                        make_task().get();
                    } catch (...) {  // this session cannot go on; the others can
                    }
                    done();
                    state->retire(self);
                }};
            } catch (...) {
                state_->running.erase(self);
                throw;
            }
        } catch (...) {  // no thread to be had: the client is let go
            done();
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
    struct state {
        boost::asio::io_context sockets;
        // Makes the context's descriptors now, and not when the first client comes.
        boost::asio::posix::basic_stream_descriptor<executor_type> first_user{sockets};
        std::mutex mutex;
        std::condition_variable all_retired;
        std::list<std::thread> running;
        std::thread retired;

        /// A thread cannot join itself: it joins the one that ended before it, and leaves itself
        /// for the next, so that at most one ended thread is ever kept.
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
