// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/threading_policy.hpp>

#include <mutex>
#include <utility>

namespace nbd::session {

/// Lets one visitor through at a time, without anybody's thread having to wait: a lock for backends
/// whose calls are awaited, or wait for a thread. Thread safety: any member from any thread.
class turnstile {
public:
    struct visitor {
        /// Called when its turn has come, on the thread of who leaves; it must only pass that on. False
        /// where it cannot, and so does not take its turn.
        bool (*admitted)(visitor&) = nullptr;
        visitor* behind = nullptr;
    };

    /// True where it is the visitor's turn at once; else `admitted` is called when it is.
    [[nodiscard]] bool enter(visitor& v)
    {
        const std::lock_guard lock{mutex_};
        if (!std::exchange(taken_, true))
            return true;
        line_.push(v);
        return false;
    }
    void leave()
    {
        const std::lock_guard lock{mutex_};
        while (!line_.empty()) {
            visitor& next = line_.pop();
            if (next.admitted(next))
                return;
        }
        taken_ = false;
    }

private:
    std::mutex mutex_;
    bool taken_ = false;
    waiting_line<visitor> line_;
};

}  // namespace nbd::session
