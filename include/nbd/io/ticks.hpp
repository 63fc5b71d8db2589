// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/gate.hpp>

#include <boost/asio/basic_waitable_timer.hpp>

#include <chrono>
#include <utility>

namespace nbd::io {

/// Opens a gate now and then, for who waits for something that he is not told of. On the strand of
/// the gate.
template <class Executor>
class ticks {
public:
    ticks(const Executor& on, gate<Executor>& opened) : timer_{on}, gate_{opened} {}
    ticks(const ticks&) = delete;
    ticks& operator=(const ticks&) = delete;

    /// Another one shall come. Without memory for it, none does.
    void want() noexcept
    {
        if (std::exchange(coming_, true))
            return;
        try {
            timer_.expires_after(std::chrono::milliseconds{100});
            timer_.async_wait([this](const boost::system::error_code&) {
                coming_ = false;
                gate_.open();
            });
        } catch (...) {
            coming_ = false;
        }
    }
    /// No more shall come. True when none will; else the gate opens, and it has to be asked again
    /// before this may be destroyed.
    [[nodiscard]] bool end()
    {
        timer_.cancel();
        return !coming_;
    }

private:
    boost::asio::basic_waitable_timer<std::chrono::steady_clock,
                                      boost::asio::wait_traits<std::chrono::steady_clock>, Executor>
        timer_;
    gate<Executor>& gate_;
    bool coming_ = false;
};

}  // namespace nbd::io
