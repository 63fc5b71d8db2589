// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/connection_info.hpp>
#include <nbd/exports/authorisation.hpp>
#include <nbd/session/context.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>

namespace nbd::acceptance {

/// *Returns*: the id of a new client, unique in the process.
/// *Thread safety*: any thread.
[[nodiscard]] inline std::uint64_t next_client_id() noexcept
{
    static std::atomic<std::uint64_t> last{0};
    return ++last;
}

/// One connection as the listener keeps it: its socket, its peer, and what its session shares with
/// the server.
///
/// The session runs on a thread of the policy. The other members are called from the control
/// thread, or any other, under the lock that also guards the life of the descriptor: a closed
/// descriptor may belong to another connection already.
template <class Socket, class Peer, class Observer>
class connection {
public:
    connection(Socket s, Peer p, const settings& limits, Observer& observer, std::uint64_t id,
               const session::ticker& clock, const std::atomic<bool>& stopping,
               session::memory_budget& memory, const authorisation* authorise = nullptr)
        : socket{std::move(s)}, peer{std::move(p)}, session{limits,
                                                            observer,
                                                            {.id = id, .peer = peer.text()},
                                                            session::deadline{clock},
                                                            session::deadline{clock},
                                                            stopping,
                                                            {memory}},
          accepted{clock.now()}, clock_{clock}
    {
        session.authorise = authorise;
        if constexpr (requires { peer.describe(session.who); })
            peer.describe(session.who);
    }

    /// Closes the connection, which ends every wait of its session. For the reason that is kept,
    /// see session::ending.
    void cut(errc why) noexcept
    {
        if (!session.ending.close(why))
            return;
        cut_at_ = clock_.now();
        ::shutdown(socket.native_handle(), SHUT_RDWR);
        session.memory.close();
    }
    /// The connection was cut within the last second, so its place and memory are about to become
    /// free. A call of the backend may delay that for longer.
    [[nodiscard]] bool ending(std::uint64_t now) const noexcept
    {
        return cut_for() != errc{} && now < cut_at_ + session::second;
    }
    [[nodiscard]] errc cut_for() const noexcept { return session.ending.closed_for(); }

    /// The session reads the end of its stream after what was received already.
    void end_of_requests() noexcept { ::shutdown(socket.native_handle(), SHUT_RD); }

    [[nodiscard]] bool in_handshake() const noexcept
    {
        return !session.admitted.load(std::memory_order_acquire);
    }
    /// The tick since which the connection waits for a request with none in flight; `never`
    /// otherwise.
    [[nodiscard]] std::uint64_t idle_since() noexcept
    {
        const auto since = session.deadline.since();
        return session.deadline.reason() == errc::idle_timeout && stalled_by_client()
            ? since
            : session::deadline::never;
    }
    [[nodiscard]] connection_info info() const
    {
        const bool handshake = in_handshake();
        return {.id = session.who.id,
                .peer = session.who.peer,
                .export_name = handshake ? std::string{} : session.who.export_name,
                .since = accepted_at_,
                .state = cut_for() != errc{} ? connection_state::closing
                    : handshake              ? connection_state::handshake
                                             : connection_state::transmission};
    }
    /// The reason to disconnect the client, or nothing: a deadline passed, and the client is the
    /// cause. A client that reads no replies, or stays in its handshake, may have sent bytes that
    /// the session could not receive meanwhile.
    [[nodiscard]] errc overdue()
    {
        if (session.sending.overdue() && !takes_bytes())
            return session.sending.reason();
        if (!session.deadline.overdue())
            return errc{};
        const auto reason = session.deadline.reason();
        const bool its_doing = reason == errc::progress_timeout || reason == errc::idle_timeout
            ? stalled_by_client()
            : session.waiting.load(std::memory_order_relaxed);
        return its_doing ? reason : errc{};
    }
    /// Notes whether the client takes bytes of its replies. The session learns that only when much
    /// of the socket's buffer is free. The server calls it at each sweep.
    void look_at_replies() noexcept
    {
        int unsent = 0;
        if (session.sending.silent_since() != session::deadline::never
            && ::ioctl(socket.native_handle(), TIOCOUTQ, &unsent) == 0
            && std::exchange(unsent_, unsent) != unsent)
            took_ = clock_.now();
    }
    /// The tick since which the client moves no byte in either direction, in its handshake, in a
    /// message or in taking its replies; session::deadline::never while nothing is expected of it
    /// or it is idle.
    [[nodiscard]] std::uint64_t silent_since()
    {
        const auto sending = session.sending.silent_since();
        const bool owes = owes_bytes();
        if (sending == session::deadline::never)
            return owes ? session.deadline.silent_since() : sending;
        return std::max({sending, took_, owes ? session.deadline.silent_since() : 0});
    }
    /// The same, but since when it has moved fewer bytes than settings.least_transfer_rate demands,
    /// in one direction at least.
    [[nodiscard]] std::uint64_t behind_since()
    {
        return std::min(session.sending.since(),
                        owes_bytes() ? session.deadline.since() : session::deadline::never);
    }
    /// The client closed the connection while the session works and does not look. Called again
    /// after `ticks`: a client that only shut down its sending side may wait for an answer, for
    /// some time.
    [[nodiscard]] bool peer_gone(std::uint64_t ticks)
    {
        ::pollfd end{.fd = socket.native_handle(), .events = POLLRDHUP, .revents = 0};
        if (!session.working.load(std::memory_order_relaxed) || ::poll(&end, 1, 0) <= 0) {
            silent_for_ = 0;
            return false;
        }
        if ((end.revents & (POLLHUP | POLLERR)) != 0)
            return true;
        // A server that stops has shut down the receiving side itself.
        return !session.stopping.load(std::memory_order_relaxed)
            && (silent_for_ += silent_for_ == 0 ? 1 : ticks)
            >= session::ticker::ticks(std::chrono::seconds{10});
    }
    /// The session waits for the client, and no received bytes wait for the session (whose thread
    /// another client may keep busy).
    [[nodiscard]] bool stalled_by_client()
    {
        int unread = 0;
        return session.waiting.load(std::memory_order_relaxed)
            && (::ioctl(socket.native_handle(), FIONREAD, &unread) != 0 || unread == 0);
    }

    /// Lets a blocking send return once a second with the bytes sent so far, which tells a slow
    /// reader from one that does not read.
    void limit_blocking_sends() noexcept
    {
        const ::timeval second{.tv_sec = 1, .tv_usec = 0};
        ::setsockopt(socket.native_handle(), SOL_SOCKET, SO_SNDTIMEO, &second, sizeof(second));
    }

    Socket socket;
    const Peer peer;
    bool beyond_share = false;    ///< its peer had its share of connections when this one was added
    bool beyond_identity = true;  ///< false once its identity had no more than its share
    session::context<Observer> session;
    const std::uint64_t accepted;  ///< in ticks

private:
    /// The session waits for bytes of a message or of the handshake.
    [[nodiscard]] bool owes_bytes()
    {
        return session.deadline.since() != session::deadline::never
            && session.deadline.reason() != errc::idle_timeout && stalled_by_client();
    }
    /// Without a least rate, every byte of its replies that the client takes restarts send_timeout.
    [[nodiscard]] bool takes_bytes() const noexcept
    {
        const auto& limits = session.limits;
        return limits.least_transfer_rate == 0
            && clock_.now() < took_ + session::ticker::ticks(limits.send_timeout);
    }

    const session::ticker& clock_;
    std::uint64_t cut_at_ = 0;  ///< in ticks
    std::uint64_t took_ = 0;    ///< the tick when the client was last seen to take bytes
    int unsent_ = -1;           ///< bytes in the socket's buffer at the last look
    const std::chrono::system_clock::time_point accepted_at_ = std::chrono::system_clock::now();
    std::uint64_t silent_for_ = 0;  ///< ticks
};

}  // namespace nbd::acceptance
