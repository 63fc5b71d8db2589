// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/handler_memory.hpp>
#include <nbd/io/operation.hpp>

#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/post.hpp>

#include <chrono>
#include <condition_variable>
#include <coroutine>
#include <cstddef>
#include <mutex>
#include <utility>

namespace nbd::io {

/// Lets the calling thread wait until another thread notifies it. For blocking I/O.
/// *Thread safety*: any thread may call `notify`, once for each `wait`, before or after the wait
/// begins.
class thread_wakeup {
public:
    template <class Stream>
    explicit thread_wakeup(Stream&)
    {
    }

    void notify() noexcept
    {
        const std::lock_guard lock{mutex_};
        notified_ = true;
        changed_.notify_one();  // under the lock: the waiter may destroy this object afterwards
    }
    std::suspend_never wait()
    {
        std::unique_lock lock{mutex_};
        changed_.wait(lock, [this] { return notified_; });
        notified_ = false;
        return {};
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool notified_ = false;
};

/// Lets a coroutine on the stream's executor wait until another thread notifies it. For
/// asynchronous I/O: no thread is held. It waits for a timer that never expires, so that destroying
/// the executor's context destroys the coroutine.
/// *Thread safety*: any thread may call `notify`, once for each `wait`. The wait must begin on the
/// executor before a handler that `notify` posts there can run.
template <class Executor>
class strand_wakeup {
    using clock = std::chrono::steady_clock;

public:
    template <class Stream>
    explicit strand_wakeup(Stream& stream) : never_{stream.get_executor(), clock::time_point::max()}
    {
    }

    /// *Errors*: std::bad_alloc if an executor of the program needs memory to post; the waiter is
    /// not notified then.
    void notify()
    {
        boost::asio::post(never_.get_executor(),
                          boost::asio::bind_allocator(handler_memory::allocator<std::byte>{memory_},
                                                      [this] { never_.cancel(); }));
    }
    /// Ends early where there is no memory for the wait.
    [[nodiscard]] auto wait()
    {
        return make_operation([this](auto handler) {
            never_.async_wait(boost::asio::bind_allocator(
                handler_memory::allocator<std::byte>{waiting_}, std::move(handler)));
        });
    }

private:
    boost::asio::basic_waitable_timer<clock, boost::asio::wait_traits<clock>, Executor> never_;
    handler_memory memory_;   ///< for the handler that `notify` posts
    handler_memory waiting_;  ///< for the wait, so that many waiters allocate nothing
};

}  // namespace nbd::io
