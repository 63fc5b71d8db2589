// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <utility>

namespace nbd::acceptance {

/// The handler of a pending operation of a listener; `pending` is true until it is called or destroyed. It
/// calls `f(listener, arguments...)`. Where it is destroyed uncalled, because memory ran out, or `f` throws,
/// the listener recovers.
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

/// The session of one client, for the policy to run. Its destructor tells the listener that the client is
/// gone.
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
