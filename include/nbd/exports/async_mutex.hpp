// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/threading_policy.hpp>

#include <mutex>
#include <utility>

namespace nbd::exports {

/// Lets one waiter through at a time, without anybody's thread having to wait: a lock for backends
/// whose calls are awaited, or wait for a thread. Thread safety: any member from any thread.
class async_mutex {
public:
    struct waiter {
        /// Called when its turn has come, on the thread of who leaves; it must only pass that on. False
        /// where it cannot, and so does not take its turn.
        bool (*granted)(waiter&) = nullptr;
        waiter* behind = nullptr;
    };

    /// True where it is the waiter's turn at once; else `granted` is called when it is.
    [[nodiscard]] bool lock(waiter& v)
    {
        const std::lock_guard lock{mutex_};
        if (!std::exchange(locked_, true))
            return true;
        waiters_.push(v);
        return false;
    }
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
