// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/exports/async_mutex.hpp>
#include <nbd/io/handoff.hpp>

#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <cstddef>
#include <optional>
#include <utility>

namespace nbd::exports {

/// Owns a locked async_mutex and unlocks it on destruction.
class async_lock {
public:
    /// Adopts `m`, which the caller has locked.
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
/// Cancellation: none; the wait ends when the mutex is free.
/// Lifetime: `m` outlives the lock.
template <class Executor>
[[nodiscard]] boost::asio::awaitable<async_lock, Executor> lock(async_mutex& m)
{
    using token = boost::asio::use_awaitable_t<Executor>;
    using handler = typename boost::asio::async_result<token, void()>::handler_type;
    struct waiter : async_mutex::waiter {
        io::handler_memory memory;  // resuming the coroutine allocates nothing
        std::optional<handler> resume;

        void post()
        {
            handler h{std::move(*resume)};
            resume.reset();
            // The coroutine may resume, and this object end, before post returns.
            const auto executor = boost::asio::get_associated_executor(h);
            boost::asio::post(
                executor,
                boost::asio::bind_allocator(io::handler_memory::allocator<std::byte>{memory},
                                            [h = std::move(h)]() mutable { std::move(h)(); }));
        }
    };
    waiter w;
    w.granted = [](async_mutex::waiter& granted) {
        static_cast<waiter&>(granted).post();
        return true;
    };
    token awaited;
    co_await boost::asio::async_initiate<token, void()>(
        [&m, &w](handler h) {
            w.resume.emplace(std::move(h));
            if (m.lock(w))
                w.post();
        },
        awaited);
    co_return async_lock{m};
}

}  // namespace nbd::exports
