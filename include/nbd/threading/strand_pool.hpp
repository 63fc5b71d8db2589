// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/threading_policy.hpp>
#include <nbd/threading/awaiting.hpp>
#include <nbd/threading/call_threads.hpp>
#include <nbd/threading/launch.hpp>
#include <nbd/vocabulary/owned_context.hpp>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <future>
#include <list>
#include <memory>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

namespace nbd {

/// A fixed number of threads for any number of clients, with asynchronous I/O.
///
/// Each thread runs its own io_context. A client stays on one of them, which serves as its strand:
/// a request takes no lock and does not change threads. A backend that blocks delays the other
/// clients of its thread, unless it promises `blocks`: then its calls run on separate threads.
///
/// What a backend leaves on its client's executor, such as a timer or a detached coroutine, runs
/// until the server ends. When the last session has ended, it has one more second. Then it is
/// destroyed, or, if it waits on another executor by nbd::on, when its task has ended. It must not
/// be waiting for another thread in another way.
class strand_pool : public threading::awaiting<boost::asio::io_context::executor_type> {
public:
    using executor_type = boost::asio::io_context::executor_type;
    static constexpr bool blocking = false;
    static constexpr bool polls = true;

    /// Creates one thread for each processor.
    strand_pool() : strand_pool{std::max(1U, std::thread::hardware_concurrency())} {}

    /// *Errors*: std::invalid_argument if `threads` is 0.
    explicit strand_pool(std::size_t threads) : threads_{threads}
    {
        if (threads == 0)
            throw std::invalid_argument{"nbd: strand_pool: threads must be at least 1"};
    }

    /// *Errors*: std::system_error if threads or descriptors run out; all threads have ended then.
    void start()
    {
        try {
            for (std::size_t i = 0; i < threads_; ++i)
                workers_.emplace_back().start();
            sessions_.reset(new std::promise<void>, [](std::promise<void>* over) {
                over->set_value();
                delete over;
            });
            over_ = sessions_->get_future();
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
        return (next_++)->executor();
    }

    template <class Session>
    void launch(const executor_type& executor, Session session) noexcept
    {
        threading::launch_awaited(executor, counted<Session>{sessions_, std::move(session)});
    }

    [[nodiscard]] bool runs_here()
    {
        return calls_->runs_here() || std::any_of(workers_.begin(), workers_.end(), [](worker& w) {
                   return w.executor().running_in_this_thread();
               });
    }

    /// Runs a call that blocks on one of `threads` additional threads.
    void offload(offloaded_calls& client, offloaded_call& call) { calls_->offload(client, call); }

    void join()
    {
        if (over_.valid()) {
            sessions_.reset();
            over_.get();
        }
        for (auto& w : workers_)
            w.guard.reset();
        const auto end = std::chrono::steady_clock::now() + threading::time_for_leftovers;
        for (auto& w : workers_)
            w.join(end);
        calls_->end();
    }

private:
    /// A session that `join` waits for. The session is destroyed before its count.
    template <class Session>
    struct counted {
        std::shared_ptr<std::promise<void>> count;
        Session session;
        [[nodiscard]] auto operator()() { return session(); }
    };
    struct worker {
        std::shared_ptr<owned_context> own = std::make_shared<owned_context>();
        boost::asio::executor_work_guard<executor_type> guard{executor()};
        // Creates the context's descriptors now, while start() can still report an error.
        boost::asio::posix::basic_stream_descriptor<executor_type> first_user{own->context};
        std::promise<void> ended;
        std::thread thread;

        worker() = default;
        worker(const worker&) = delete;
        worker& operator=(const worker&) = delete;
        ~worker() { own->leave(); }

        [[nodiscard]] executor_type executor() const { return own->context.get_executor(); }

        void start()
        {
            thread = std::thread{[this] {
                threading::block_sigpipe();
                const owned_context::scope runs{*own};
                for (;;) {
                    try {
                        own->context.run();
                        break;
                    } catch (...) {  // from a handler of a backend; the clients continue
                    }
                }
                ended.set_value();
            }};
        }
        /// Runs what is left, at most until `end`.
        void join(std::chrono::steady_clock::time_point end)
        {
            if (!thread.joinable())
                return;
            if (ended.get_future().wait_until(end) != std::future_status::ready)
                own->context.stop();
            thread.join();
        }
    };

    std::size_t threads_;
    std::unique_ptr<threading::call_threads> calls_ =
        std::make_unique<threading::call_threads>(threads_);
    std::list<worker> workers_;
    std::list<worker>::iterator next_{};
    std::shared_ptr<std::promise<void>> sessions_;  ///< kept when the last session has ended
    std::future<void> over_;
};

}  // namespace nbd
