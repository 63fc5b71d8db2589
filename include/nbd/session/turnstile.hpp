// SPDX-License-Identifier: MIT
#pragma once

#include <mutex>
#include <utility>

namespace nbd::session {

/// Lets one visitor through at a time, without anybody's thread having to wait: a lock for backends
/// whose calls are awaited. Thread safety: any member from any thread.
class turnstile {
public:
    struct visitor {
        /// Called when its turn has come, on the thread of who leaves; it must only pass that on.
        void (*admitted)(visitor&) = nullptr;
        visitor* behind = nullptr;
    };

    /// True where it is the visitor's turn at once; else `admitted` is called when it is.
    [[nodiscard]] bool enter(visitor& v)
    {
        const std::lock_guard lock{mutex_};
        if (!std::exchange(taken_, true))
            return true;
        v.behind = nullptr;
        (last_ == nullptr ? first_ : last_->behind) = &v;
        last_ = &v;
        return false;
    }
    void leave()
    {
        const std::lock_guard lock{mutex_};
        if (first_ == nullptr) {
            taken_ = false;
            return;
        }
        visitor& v = *first_;
        first_ = v.behind;
        if (first_ == nullptr)
            last_ = nullptr;
        v.admitted(v);
    }

private:
    std::mutex mutex_;
    bool taken_ = false;
    visitor* first_ = nullptr;
    visitor* last_ = nullptr;
};

}  // namespace nbd::session
