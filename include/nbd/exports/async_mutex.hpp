// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/intrusive_queue.hpp>

#include <mutex>
#include <utility>

namespace nbd::exports {

/// A mutex whose waiters do not block a thread. They get the lock in the order of their calls.
/// *Thread safety*: any thread may call any member.
class async_mutex {
public:
    /// A queued request for the lock. *Lifetime*: from a `lock` that returned false until `granted`
    /// is called.
    struct waiter {
        /// Called by `unlock` when the waiter has the lock: on the thread that unlocks and with an
        /// internal mutex held, so it must only schedule the continuation. *Returns* false if it
        /// cannot; the next waiter gets the lock then.
        bool (*granted)(waiter&) = nullptr;
        waiter* behind = nullptr;  ///< for the mutex's queue
    };

    /// *Returns* true if the caller has the lock now. Otherwise `w` is queued, and `w.granted` is
    /// called when it has the lock.
    [[nodiscard]] bool lock(waiter& w)
    {
        const std::lock_guard lock{mutex_};
        if (!std::exchange(locked_, true))
            return true;
        waiters_.push(w);
        return false;
    }
    /// For a waiter that is destroyed before it continued: removes it from the queue, or unlocks
    /// where the lock was granted to it.
    void abandon(waiter& w)
    {
        {
            const std::lock_guard lock{mutex_};
            if (waiters_.remove(w))
                return;
        }
        unlock();
    }
    /// Passes the lock to the first waiter, if there is one. Requires that the caller has the lock.
    void unlock()
    {
        const std::lock_guard lock{mutex_};
        while (!waiters_.empty()) {
            waiter& next = waiters_.pop();
            if (next.granted(next))
                return;
        }
        locked_ = false;
    }

private:
    std::mutex mutex_;
    bool locked_ = false;
    intrusive_queue<waiter> waiters_;
};

}  // namespace nbd::exports
