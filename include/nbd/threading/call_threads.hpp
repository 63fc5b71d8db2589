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

/// Threads that may wait for a device, and the calls that wait for one of them. Clients take turns, so
/// that one who has much called does not hold up the others for longer than a call takes. The threads
/// are made when they are needed. Thread safety: all but `end`, from any thread.
class call_threads {
public:
    explicit call_threads(std::size_t most) noexcept : most_{most} {}
    call_threads(const call_threads&) = delete;
    call_threads& operator=(const call_threads&) = delete;

    /// Errors: std::system_error where there is no thread, and none to be had.
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
            more_.notify_one();  // not before: it would only wait for the mutex
    }

    /// Whether the calling thread is one of these.
    [[nodiscard]] bool runs_here() const noexcept { return running == this; }

    /// Makes the calls that wait, then ends the threads.
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
    static inline thread_local const call_threads* running = nullptr;  ///< whose thread this one is

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

    /// Whether a thread should be told to look for a call. One at a time: a client that asks for much
    /// would spend its time telling, and the threads in each other's way.
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
    intrusive_queue<offloaded_calls> clients_;  ///< that have calls waiting
    std::size_t waiting_ = 0;                   ///< calls
    std::size_t idle_ = 0;                      ///< threads
    bool waking_ = false;  ///< one of these was told to look, and then tells the next
    bool ending_ = false;
};

}  // namespace nbd::threading
