// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/threading_policy.hpp>

#include <condition_variable>
#include <cstddef>
#include <list>
#include <mutex>
#include <thread>
#include <utility>

namespace nbd::threading {

/// Threads for calls that block, and the queue of these calls. Clients are served round-robin, so
/// that one client with many calls delays the others by at most one call. Threads are created on
/// demand.
/// *Thread safety*: any thread may call any member; `end` once at a time.
class call_threads {
public:
    explicit call_threads(std::size_t most) noexcept : most_{most} {}
    call_threads(const call_threads&) = delete;
    call_threads& operator=(const call_threads&) = delete;

    /// Queues a call. *Errors*: std::system_error if there is no thread and none can be created.
    void offload(offloaded_calls& client, offloaded_call& call)
    {
        bool wake = false;
        {
            const std::lock_guard lock{mutex_};
            if (waiting_ >= idle_ && threads_.size() < most_) {
                try {
                    threads_.emplace_back([this] { run(); });
                } catch (...) {
                    if (threads_.empty())
                        throw;
                }
            }
            if (client.calls.empty())
                clients_.push(client);
            client.calls.push(call);
            ++waiting_;
            wake = wake_another();
        }
        if (wake)
            more_.notify_one();  // after the unlock; otherwise the thread would wait for the mutex
    }

    /// Whether the calling thread is one of these threads.
    [[nodiscard]] bool runs_here() const noexcept { return running == this; }

    /// Runs the queued calls, then ends the threads.
    void end()
    {
        {
            const std::lock_guard lock{mutex_};
            ending_ = true;
        }
        more_.notify_all();
        for (auto& t : threads_)
            t.join();
        threads_.clear();
    }

private:
    static inline thread_local const call_threads* running =
        nullptr;  ///< the object that owns the calling thread

    void run()
    {
        running = this;
        std::unique_lock lock{mutex_};
        for (;;) {
            ++idle_;
            while (clients_.empty() && !ending_) {
                more_.wait(lock);
                waking_ = false;
            }
            --idle_;
            if (clients_.empty())
                return;
            offloaded_calls& client = clients_.pop();
            offloaded_call& call = client.calls.pop();
            if (!client.calls.empty())
                clients_.push(client);
            --waiting_;
            const bool wake = wake_another();
            lock.unlock();
            if (wake)
                more_.notify_one();
            call.run(call);
            lock.lock();
        }
    }

    /// Whether to notify an idle thread. Each thread that takes a call wakes the next, so one
    /// thread at a time is woken. Otherwise a client with many calls would spend its time on
    /// notifications, and the threads would contend for the mutex.
    [[nodiscard]] bool wake_another() noexcept
    {
        if (clients_.empty() || waking_ || idle_ == 0)
            return false;
        waking_ = true;
        return true;
    }

    const std::size_t most_;
    std::mutex mutex_;
    std::condition_variable more_;
    std::list<std::thread> threads_;
    intrusive_queue<offloaded_calls> clients_;  ///< clients with queued calls
    std::size_t waiting_ = 0;                   ///< queued calls
    std::size_t idle_ = 0;                      ///< threads without a call
    bool waking_ = false;  ///< a thread was notified and has not taken a call yet
    bool ending_ = false;
};

}  // namespace nbd::threading
