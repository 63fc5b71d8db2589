// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <mutex>
#include <thread>

namespace nbd::exports {

/// A mutex that tells a thread whether it holds the lock. A backend's call holds one, and may call
/// the program, which may call a member of the export set.
/// *Thread safety*: any thread. *Cost*: two relaxed stores more than std::mutex.
class owned_mutex {
public:
    void lock()
    {
        mutex_.lock();
        owner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
    }
    /// Requires that the calling thread does not hold the lock.
    [[nodiscard]] bool try_lock()
    {
        if (!mutex_.try_lock())
            return false;
        owner_.store(std::this_thread::get_id(), std::memory_order_relaxed);
        return true;
    }
    void unlock()
    {
        owner_.store(std::thread::id{}, std::memory_order_relaxed);
        mutex_.unlock();
    }
    /// Whether the calling thread holds the lock. A thread that does not reads another value,
    /// because only the thread itself stores its own id.
    [[nodiscard]] bool held_here() const noexcept
    {
        return owner_.load(std::memory_order_relaxed) == std::this_thread::get_id();
    }

private:
    std::mutex mutex_;
    std::atomic<std::thread::id> owner_{};
};

}  // namespace nbd::exports
