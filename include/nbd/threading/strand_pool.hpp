// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/threading_policy.hpp>
#include <nbd/threading/call_threads.hpp>
#include <nbd/threading/launch.hpp>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>

#include <algorithm>
#include <cstddef>
#include <list>
#include <memory>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace nbd {

/// A fixed number of threads for any number of clients, whose I/O is awaited. Every thread runs a
/// context of its own and a client stays on one of them, which is its strand: no lock and no hand-over
/// between threads on the path of a request. A backend that blocks delays the other clients of its
/// thread.
class strand_pool {
public:
    using executor_type = boost::asio::io_context::executor_type;
    static constexpr bool blocking = false;

    /// A thread for each core.
    strand_pool() : strand_pool{std::max(1U, std::thread::hardware_concurrency())} {}

    /// Errors: std::invalid_argument for no threads at all.
    explicit strand_pool(std::size_t threads) : threads_{threads}
    {
        if (threads == 0)
            throw std::invalid_argument{"nbd: strand_pool: threads must be at least 1"};
    }

    /// Errors: std::system_error where there are no threads or descriptors to be had; none is left
    /// then.
    void start()
    {
        try {
            for (std::size_t i = 0; i < threads_; ++i)
                workers_.emplace_back().start();
        } catch (...) {
            join();
            throw;
        }
        next_ = workers_.begin();
    }

    [[nodiscard]] executor_type next_executor()
    {
        if (next_ == workers_.end())
            next_ = workers_.begin();
        return (next_++)->context.get_executor();
    }

    template <class MakeTask, class Done>
    void launch(const executor_type& executor, MakeTask make_task, Done done) noexcept
    {
        threading::launch_awaited(executor, make_task, std::move(done));
    }

    [[nodiscard]] bool runs_here()
    {
        return calls_->runs_here() || std::any_of(workers_.begin(), workers_.end(), [](worker& w) {
                   return w.context.get_executor().running_in_this_thread();
               });
    }

    /// For backends that block: calls have as many threads as were asked for, beside those of the
    /// clients.
    void offload(offloaded_calls& client, offloaded_call& call) { calls_->offload(client, call); }

    void join()
    {
        for (auto& w : workers_) {
            w.guard.reset();
            if (w.thread.joinable())
                w.thread.join();
        }
        calls_->end();
    }

private:
    struct worker {
        boost::asio::io_context context{1};
        boost::asio::executor_work_guard<executor_type> guard{context.get_executor()};
        // Makes the context's descriptors now, when start() can still say that there are none left.
        boost::asio::posix::basic_stream_descriptor<executor_type> first_user{context};
        std::thread thread;

        void start()
        {
            thread = std::thread{[this] {
                threading::block_sigpipe();
                for (;;) {
                    try {
                        context.run();
                        return;
                    } catch (...) {  // of a handler of a backend's own; the clients go on
                    }
                }
            }};
        }
    };

    std::size_t threads_;
    std::unique_ptr<threading::call_threads> calls_ =
        std::make_unique<threading::call_threads>(threads_);
    std::list<worker> workers_;
    std::list<worker>::iterator next_{};
};

}  // namespace nbd
