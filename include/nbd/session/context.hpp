// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/observer.hpp>
#include <nbd/error.hpp>
#include <nbd/session/deadline.hpp>
#include <nbd/settings.hpp>

#include <atomic>
#include <system_error>

namespace nbd::session {

/// What the loops of one client share with the server around them.
template <class Observer>
struct context {
    const settings& limits;
    Observer& observer;
    const client who;
    session::deadline deadline;  ///< for what is received, or for all
    session::deadline sending;   ///< beside it, where both happen at the same time
    /// The server is stopping: finish what was begun, refuse what is new.
    const std::atomic<bool>& stopping;
    /// Set once the handshake is over; until then the client may have to give its place up.
    std::atomic<bool> admitted{false};
    /// The session waits for its client: if nothing happens now, that is the client's doing.
    std::atomic<bool> waiting{false};
    /// The session does long work and does not look at its client meanwhile: one that has gone has to be
    /// noticed from outside.
    std::atomic<bool> working{false};
    /// Why the server has ended the connection from outside; nothing if it has not.
    std::atomic<errc> cut{};
    /// Why the client left; empty after DISC, ABORT or a clean close.
    std::error_code ended{};

    /// Nothing that is begun now can be of use to anybody.
    [[nodiscard]] bool over() const noexcept
    {
        return stopping.load(std::memory_order_relaxed)
            || cut.load(std::memory_order_relaxed) != errc{};
    }
};

}  // namespace nbd::session
