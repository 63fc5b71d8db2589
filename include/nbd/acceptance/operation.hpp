// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/handler_memory.hpp>

#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/post.hpp>

#include <atomic>
#include <cstddef>
#include <utility>

namespace nbd::acceptance {

/// The handler of a pending operation of a listener; `pending` is true until it is called or
/// destroyed. It calls `f(listener, arguments...)`. Where it is destroyed uncalled, because memory
/// ran out, or `f` throws, the listener recovers.
template <class Listener, class F>
class operation {
public:
    operation(Listener& l, std::atomic<bool>& pending, F f)
        : self_{l.hold()}, pending_{&pending}, f_{std::move(f)}
    {
        pending = true;
    }
    operation(operation&& other) noexcept
        : self_{std::move(other.self_)}, pending_{std::exchange(other.pending_, nullptr)},
          f_{std::move(other.f_)}
    {
    }
    operation& operator=(operation&&) = delete;
    ~operation()
    {
        if (pending_ == nullptr)
            return;
        *pending_ = false;
        self_->post(self_, [](Listener& self) { self.recover(); });
    }
    template <class... Args>
    void operator()(Args&&... args)
    {
        *std::exchange(pending_, nullptr) = false;
        try {
            f_(*self_, std::forward<Args>(args)...);
        } catch (...) {
            self_->recover();
        }
    }

private:
    typename Listener::hold_type self_;
    std::atomic<bool>* pending_;
    F f_;
};

/// Calls `f(*self)` on the listener's executor; the listener recovers from an exception. Without
/// memory for the handler, and without `memory`, it is not called.
template <class Executor, class Hold, class F>
void post_or_recover(const Executor& on, Hold self, F f, io::handler_memory* memory) noexcept
{
    auto handler = [self = std::move(self), f = std::move(f)]() mutable {
        try {
            f(*self);
        } catch (...) {
            self->recover();
        }
    };
    try {
        if (memory == nullptr)
            return boost::asio::post(on, std::move(handler));
        const io::handler_memory::allocator<std::byte> reserved{*memory};
        boost::asio::post(on, boost::asio::bind_allocator(reserved, std::move(handler)));
    } catch (...) {
    }
}

/// The session of one client, for the policy to run. Its destructor tells the listener that the
/// client is gone.
template <class Listener>
class session_task {
public:
    session_task(Listener& l, typename Listener::entry at) : self_{l.hold()}, at_{at} {}
    session_task(session_task&& other) noexcept
        : self_{std::exchange(other.self_, nullptr)}, at_{other.at_}
    {
    }
    session_task& operator=(session_task&&) = delete;
    ~session_task()
    {
        if (self_ != nullptr)
            self_->ended(at_);
    }
    [[nodiscard]] auto operator()() { return self_->serve(at_); }

private:
    typename Listener::hold_type self_;
    typename Listener::entry at_;
};

}  // namespace nbd::acceptance
