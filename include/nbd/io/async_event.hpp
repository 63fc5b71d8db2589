// SPDX-License-Identifier: MIT
#pragma once

#include <boost/asio/async_result.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <optional>
#include <utility>

namespace nbd::io {

/// Where one coroutine waits until another calls it on. Both run on the same strand; what was called
/// before there was a wait is forgotten, so a waiter looks at its condition first.
template <class Executor>
class async_event {
    using token = boost::asio::use_awaitable_t<Executor>;
    using handler = typename boost::asio::async_result<token, void()>::handler_type;

public:
    async_event() = default;
    async_event(const async_event&) = delete;
    async_event& operator=(const async_event&) = delete;

    [[nodiscard]] auto wait()
    {
        token awaited;
        return boost::asio::async_initiate<token, void()>(
            [this](handler h) { waiter_.emplace(std::move(h)); }, awaited);
    }
    /// The waiter goes on, but not before the caller has had its turn.
    void notify()
    {
        if (waiter_)
            boost::asio::post(take());
    }
    /// The waiter goes on at once, until it waits again.
    void notify_now()
    {
        if (waiter_)
            take()();
    }

private:
    [[nodiscard]] handler take()
    {
        handler h{std::move(*waiter_)};
        waiter_.reset();
        return h;
    }

    std::optional<handler> waiter_;
};

}  // namespace nbd::io
