// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/exports/async_mutex.hpp>
#include <nbd/io/async_event.hpp>

#include <boost/asio/awaitable.hpp>

#include <utility>

namespace nbd::exports {

/// Owns a locked async_mutex and unlocks it on destruction.
class async_lock {
public:
    /// Takes over `m`, which the caller has locked.
    explicit async_lock(async_mutex& m) noexcept : mutex_{&m} {}
    async_lock(async_lock&& other) noexcept : mutex_{std::exchange(other.mutex_, nullptr)} {}
    async_lock& operator=(async_lock&&) = delete;
    ~async_lock()
    {
        if (mutex_ != nullptr)
            mutex_->unlock();
    }

private:
    async_mutex* mutex_;
};

/// Awaits the lock of `m`. The coroutine resumes on its own executor.
/// *Cancellation*: none; the wait ends when the coroutine has the lock.
/// *Lifetime*: `m` outlives the lock.
template <class Executor>
[[nodiscard]] boost::asio::awaitable<async_lock, Executor> lock(async_mutex& m)
{
    struct waiter : async_mutex::waiter {
        io::async_event<Executor> has_lock;
        async_mutex* at = nullptr;  ///< until the coroutine has resumed

        ~waiter()
        {
            if (at != nullptr)
                at->abandon(*this);
        }
    };
    waiter w;
    w.granted = [](async_mutex::waiter& granted) {
        static_cast<waiter&>(granted).has_lock.notify();
        return true;
    };
    co_await w.has_lock.wait_after([&m, &w] {
        w.at = &m;
        if (m.lock(w))
            w.has_lock.notify();
    });
    w.at = nullptr;
    co_return async_lock{m};
}

}  // namespace nbd::exports
