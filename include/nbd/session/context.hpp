// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/observer.hpp>
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
    session::deadline deadline;
    /// The server is stopping: finish what was begun, refuse what is new.
    const std::atomic<bool>& stopping;
    /// Set once the handshake is over; until then the client may have to give its place up.
    std::atomic<bool> admitted{false};
    /// Why the client left; empty after DISC, ABORT or a clean close.
    std::error_code ended{};
};

}  // namespace nbd::session
