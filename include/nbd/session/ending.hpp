// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/error.hpp>

#include <atomic>
#include <system_error>

namespace nbd::session {

/// How a connection ends: what the client, the server and the session have done to end it, and what
/// that means for the requests in flight.
///
/// | state | requests in flight | `lost` |
/// |---|---|---|
/// | open | answered | no |
/// | DISC received | answered, or carried out if the client has closed the connection | no |
/// | sending failed, without DISC | cancelled, if the backend is `cancellable` | yes |
/// | the client has closed the connection, without DISC | as above | yes |
/// | closed by the server | as above | yes |
///
/// tests/session/ending.test.cpp has the table of all states and events.
/// *Thread safety*: `close` and `closed_for` from any thread; the others from the session.
class ending {
public:
    /// The server closes the connection. The first reason is kept, with one exception: each other
    /// reason replaces errc::cut_short, which means that the client has closed the connection.
    /// After a DISC, that does not end the client's requests, and the other reasons do.
    /// *Returns* true for the first reason: the caller shuts down the socket.
    bool close(errc why) noexcept
    {
        auto known = errc{};
        if (closed_for_.compare_exchange_strong(known, why))
            return true;
        if (known == errc::cut_short)
            closed_for_.compare_exchange_strong(known, why);
        return false;
    }
    /// *Returns* the server's reason; errc{} if it has not closed the connection.
    [[nodiscard]] errc closed_for() const noexcept
    {
        return closed_for_.load(std::memory_order_relaxed);
    }

    /// The client has sent DISC. Its requests are carried out, also if it closes the connection.
    void disc_received() noexcept { disc_received_ = true; }
    /// No more replies can be sent.
    void sending_failed() noexcept { sending_failed_ = true; }
    [[nodiscard]] bool has_failed() const noexcept { return sending_failed_; }

    /// Whether the results of the requests in flight are not needed any more.
    [[nodiscard]] bool lost() const noexcept
    {
        const auto why = closed_for();
        return disc_received_ ? why != errc{} && why != errc::cut_short
                              : sending_failed_ || why != errc{};
    }

    /// *Returns* the reason that the observer gets. `noticed`: that of the session; `stopping`: the
    /// server stops.
    [[nodiscard]] std::error_code reason(std::error_code noticed, bool stopping) const noexcept
    {
        if (const auto why = closed_for(); why != errc{})
            return why;
        // A server that stops has itself cut short what the client sends.
        if (stopping && (!noticed || noticed == errc::cut_short))
            return errc::server_stopped;
        return noticed;
    }

private:
    std::atomic<errc> closed_for_{};
    bool disc_received_ = false;
    bool sending_failed_ = false;
};

}  // namespace nbd::session
