// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/threading_policy.hpp>
#include <nbd/session/buffers/memory_wait.hpp>
#include <nbd/session/in_order/in_order_loop.hpp>
#include <nbd/session/negotiate.hpp>
#include <nbd/session/windowed/awaited_calls.hpp>
#include <nbd/session/windowed/callback_calls.hpp>
#include <nbd/session/windowed/offloaded_calls.hpp>
#include <nbd/session/windowed/windowed_loop.hpp>

#include <memory>
#include <utility>

// GCC 12 reports the operators new and delete of Asio's coroutine promise as a mismatch.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#endif

namespace nbd::session {

/// The session of one client on an accepted stream: its handshake, then its transmission. The kind
/// of the backend selects the loop: in order for calls that return at once, windowed for the
/// others.
///
/// A client that closes its sending side without a DISC (half-close) gets a reply to each of its
/// requests; then the connection is closed. If nothing could be sent to it for ten seconds, it
/// counts as gone. The windowed loop makes no further calls for READs of a client that has closed
/// its connection, so that such clients take no time from others.
/// *Lifetime*: stream, exports, context and policy outlive the task.
template <class Io, class Stream, class Exports, class Observer, class Policy>
typename Io::template task<void> serve(Stream& stream, Exports& exports, context<Observer>& c,
                                       [[maybe_unused]] Policy& policy)
{
    using opened = typename Exports::opened;
    using backend_type = typename opened::backend_type;
    try {
        if (!c.memory.begin_work()) {
            const typename context<Observer>::working_scope works{c};
            memory_wait<Io> wait{stream, c.memory};
            if (wait.for_work())
                co_await wait.ended();
            if (!wait.granted())
                co_return;
        }
        handshake::agreement agreed;
        auto chosen = co_await negotiate<Io>(stream, exports, agreed, c);
        if (!chosen)
            co_return;
        if constexpr (has_drain<typename Exports::backend_type>)
            chosen->count_client(c.order);
        if constexpr (calls_back<backend_type>) {
            windowed_loop<Io, Stream, opened, Observer, callback_calls> loop{stream, *chosen,
                                                                             agreed, c};
            co_await loop.run();
        } else if constexpr (asynchronous<backend_type>) {
            const auto disk = std::make_shared<opened>(std::move(*chosen));
            windowed_loop<Io, Stream, opened, Observer, awaited_calls> loop{stream, *disk, agreed,
                                                                            c, disk};
            co_await loop.run();
        } else if constexpr (promises_blocks<backend_type> && offloads<Policy>) {
            windowed_loop<Io, Stream, opened, Observer, offloading<Policy>::template calls> loop{
                stream, *chosen, agreed, c, policy};
            co_await loop.run();
        } else {
            in_order_loop<Io, Stream, opened, Observer> loop{stream, *chosen, agreed, c};
            co_await loop.run();
        }
    } catch (...) {  // most likely no memory; only this client is disconnected
        c.ended = current_error();
    }
}

}  // namespace nbd::session

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
