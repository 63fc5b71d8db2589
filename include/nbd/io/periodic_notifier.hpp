// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/async_event.hpp>

#include <boost/asio/basic_waitable_timer.hpp>

#include <chrono>
#include <utility>

namespace nbd::io {

/// Notifies an event every 100 ms while it is armed, for a waiter whose condition has no notification of its own. Thread safety: on the strand of
/// the event.
template <class Executor>
class periodic_notifier {
public:
    periodic_notifier(const Executor& on, async_event<Executor>& opened)
        : timer_{on}, event_{opened}
    {
    }
    periodic_notifier(const periodic_notifier&) = delete;
    periodic_notifier& operator=(const periodic_notifier&) = delete;

    /// Another one shall come. Without memory for it, none does.
    void arm() noexcept
    {
        if (std::exchange(coming_, true))
            return;
        try {
            timer_.expires_after(std::chrono::milliseconds{100});
            timer_.async_wait([this](const boost::system::error_code&) {
                coming_ = false;
                event_.notify();
            });
        } catch (...) {
            coming_ = false;
        }
    }
    /// No more shall come. True when none will; else the event is notified, and it has to be asked again
    /// before this may be destroyed.
    [[nodiscard]] bool stop()
    {
        timer_.cancel();
        return !coming_;
    }

private:
    boost::asio::basic_waitable_timer<std::chrono::steady_clock,
                                      boost::asio::wait_traits<std::chrono::steady_clock>, Executor>
        timer_;
    async_event<Executor>& event_;
    bool coming_ = false;
};

}  // namespace nbd::io
