// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/context.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <utility>

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>

namespace nbd::acceptance {

/// A client as the listener keeps it: its socket, and what its session shares with the server.
///
/// The session runs on a thread of the policy; `cut` and `end_of_requests` come from the control
/// thread, under the lock that also guards the life of the descriptor, for a descriptor that was
/// closed meanwhile may be another client's by now.
template <class Socket, class Observer>
class connection {
public:
    connection(Socket s, const settings& limits, Observer& observer, client who,
               const session::ticker& clock, const std::atomic<bool>& stopping,
               session::memory_budget& memory)
        : socket{std::move(s)}, session{limits,
                                        observer,
                                        std::move(who),
                                        session::deadline{clock},
                                        session::deadline{clock},
                                        stopping,
                                        {memory}},
          accepted{clock.now()}
    {
    }

    /// Ends the connection; whatever its session waits for returns. The first reason stands.
    void cut(errc why) noexcept
    {
        auto expected = errc{};
        if (!session.cut.compare_exchange_strong(expected, why))
            return;
        ::shutdown(socket.native_handle(), SHUT_RDWR);
        session.memory.close();
    }
    [[nodiscard]] errc cut_for() const noexcept { return session.cut.load(); }

    /// After what was received already, the session finds the end of its stream.
    void end_of_requests() noexcept { ::shutdown(socket.native_handle(), SHUT_RD); }

    /// Still in its handshake.
    [[nodiscard]] bool in_handshake() const noexcept
    {
        return !session.admitted.load(std::memory_order_relaxed);
    }
    /// What the client is to be let go for, or nothing: a deadline has passed, and by its doing.
    /// Whoever reads no replies, or in_handshake for ever, may have sent what nobody could receive meanwhile.
    [[nodiscard]] errc overdue()
    {
        if (session.sending.overdue())
            return session.sending.reason();
        if (!session.deadline.overdue())
            return errc{};
        const auto reason = session.deadline.reason();
        const bool its_doing = reason == errc::progress_timeout || reason == errc::idle_timeout
            ? stalled_by_client()
            : session.waiting.load(std::memory_order_relaxed);
        return its_doing ? reason : errc{};
    }
    /// Nobody is at the other end, while the session is busy with something long. Asked again after so
    /// many `ticks`: a client that has only said its last word may still wait for an answer, for some time.
    [[nodiscard]] bool peer_gone(std::uint64_t ticks)
    {
        ::pollfd end{.fd = socket.native_handle(), .events = POLLRDHUP, .revents = 0};
        if (!session.working.load(std::memory_order_relaxed) || ::poll(&end, 1, 0) <= 0) {
            silent_for_ = 0;
            return false;
        }
        if ((end.revents & (POLLHUP | POLLERR)) != 0)
            return true;
        // Since then it is we who read no more.
        return !session.stopping.load(std::memory_order_relaxed)
            && (silent_for_ += silent_for_ == 0 ? 1 : ticks)
            >= session::ticker::ticks(std::chrono::seconds{10});
    }
    /// The client is to blame if nothing goes on: the session waits for it, and nothing that it has
    /// sent waits to be received (by a thread that another client keeps busy).
    [[nodiscard]] bool stalled_by_client()
    {
        int unread = 0;
        return session.waiting.load(std::memory_order_relaxed)
            && (::ioctl(socket.native_handle(), FIONREAD, &unread) != 0 || unread == 0);
    }

    /// Lets a blocking send return once a second with the bytes sent so far, which tells a slow reader
    /// from one that does not read.
    void limit_blocking_sends() noexcept
    {
        const ::timeval second{.tv_sec = 1, .tv_usec = 0};
        ::setsockopt(socket.native_handle(), SOL_SOCKET, SO_SNDTIMEO, &second, sizeof(second));
    }

    Socket socket;
    session::context<Observer> session;
    const std::uint64_t accepted;  ///< in ticks

private:
    std::uint64_t silent_for_ = 0;  ///< ticks
};

}  // namespace nbd::acceptance
