// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/context.hpp>

#include <atomic>
#include <cstdint>
#include <utility>

#include <sys/socket.h>

namespace nbd::session {

/// A client as the reception keeps it: its socket, and what its session shares with the server.
///
/// The session runs on a thread of the policy; `cut` and `end_of_requests` come from the control
/// thread, under the lock that also guards the life of the descriptor, for a descriptor that was
/// closed meanwhile may be another client's by now.
template <class Socket, class Observer>
class connection {
public:
    connection(Socket s, const settings& limits, Observer& observer, client who,
               const ticker& clock, const std::atomic<bool>& stopping)
        : socket{std::move(s)},
          session{limits, observer, std::move(who), deadline{clock}, stopping},
          accepted{clock.now()}
    {
    }

    /// Ends the connection; whatever its session waits for returns. The first reason stands.
    void cut(errc why) noexcept
    {
        auto expected = errc{};
        if (cut_for_.compare_exchange_strong(expected, why))
            ::shutdown(socket.native_handle(), SHUT_RDWR);
    }
    [[nodiscard]] errc cut_for() const noexcept { return cut_for_.load(); }

    /// After what was received already, the session finds the end of its stream.
    void end_of_requests() noexcept { ::shutdown(socket.native_handle(), SHUT_RD); }

    /// Still in its handshake.
    [[nodiscard]] bool haggles() const noexcept
    {
        return cut_for() == errc{} && !session.admitted.load(std::memory_order_relaxed);
    }

    Socket socket;
    context<Observer> session;
    const std::uint64_t accepted;  ///< in ticks

private:
    std::atomic<errc> cut_for_{};
};

}  // namespace nbd::session
