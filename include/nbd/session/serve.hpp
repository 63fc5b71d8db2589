// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/haggle.hpp>
#include <nbd/session/transmit.hpp>

namespace nbd::session {

/// The life of one client on an accepted stream: its handshake, then its transmission.
/// Requires: stream, exports and context outlive the task.
template <class Io, class Stream, class Exports, class Observer>
typename Io::template task<void> serve(Stream& stream, Exports& exports, context<Observer>& c)
{
    try {
        handshake::agreement agreed;
        auto chosen = co_await haggle<Io>(stream, exports, agreed, c);
        if (chosen)
            co_await transmit<Io>(stream, *chosen, agreed, c);
    } catch (...) {  // no memory, most likely; this client is let go, and no other
        c.ended = current_error();
    }
}

}  // namespace nbd::session
