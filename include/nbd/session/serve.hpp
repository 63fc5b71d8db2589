// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/threading_policy.hpp>
#include <nbd/concepts/transport.hpp>
#include <nbd/handshake/negotiator.hpp>
#include <nbd/io/layered.hpp>
#include <nbd/session/buffers/memory_wait.hpp>
#include <nbd/session/in_order/in_order_loop.hpp>
#include <nbd/session/negotiate.hpp>
#include <nbd/session/windowed/awaited_calls.hpp>
#include <nbd/session/windowed/callback_calls.hpp>
#include <nbd/session/windowed/offloaded_calls.hpp>
#include <nbd/session/windowed/windowed_loop.hpp>
#include <nbd/vocabulary/tls.hpp>

#include <boost/asio/error.hpp>

#include <memory>
#include <tuple>
#include <utility>

// GCC 12 reports the operators new and delete of Asio's coroutine promise as a mismatch.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#endif

namespace nbd::session {

/// The negotiation of one client, then its transmission. The kind of the backend selects the loop:
/// in order for calls that return at once, windowed for the others. `c.ended` says why it ended,
/// unless `negotiator.starts_tls()`.
template <class Io, class Stream, class Exports, class Observer, class Policy>
typename Io::template task<void> converse(Stream& stream, Exports& exports,
                                          handshake::negotiator& negotiator, context<Observer>& c,
                                          [[maybe_unused]] Policy& policy)
{
    using opened = typename Exports::opened;
    using backend_type = typename opened::backend_type;
    handshake::agreement agreed;
    auto chosen = co_await negotiate<Io>(stream, exports, negotiator, agreed, c);
    if (const auto begun = std::move(c.begun); begun && begun->opened)
        begun->opened(c.ended, agreed.terms);
    if (!chosen)
        co_return;
    if constexpr (has_drain<typename Exports::backend_type>)
        chosen->count_client(c.order);
    if constexpr (calls_back<backend_type>) {
        windowed_loop<Io, Stream, opened, Observer, callback_calls> loop{stream, *chosen, agreed,
                                                                         c};
        co_await loop.run();
    } else if constexpr (asynchronous<backend_type>) {
        const auto disk = std::make_shared<opened>(std::move(*chosen));
        windowed_loop<Io, Stream, opened, Observer, awaited_calls> loop{stream, *disk, agreed, c,
                                                                        disk};
        co_await loop.run();
    } else if constexpr (promises_blocks<backend_type> && offloads<Policy>) {
        windowed_loop<Io, Stream, opened, Observer, offloading<Policy>::template calls> loop{
            stream, *chosen, agreed, c, policy};
        co_await loop.run();
    } else {
        in_order_loop<Io, Stream, opened, Observer> loop{stream, *chosen, agreed, c};
        co_await loop.run();
    }
}

/// A transport without TLS.
struct unsecured {};
inline constexpr unsecured no_tls{};

/// The session of one client on an accepted stream: its handshake, unless `c.begun`, then its
/// transmission.
///
/// A client that closes its sending side without a DISC (half-close) gets a reply to each of its
/// requests; then the connection is closed. If nothing could be sent to it for ten seconds, it
/// counts as gone. The windowed loop makes no further calls for READs of a client that has closed
/// its connection, so that such clients take no time from others.
///
/// Where the transport secures streams (securing_transport), STARTTLS ends the first negotiation. A
/// second one, which knows nothing of the first, goes on inside TLS. The handshake deadline covers
/// both, and the TLS handshake between them.
/// *Lifetime*: stream, exports, context, policy, transport and peer outlive the task.
template <class Io, class Stream, class Exports, class Observer, class Policy,
          class Transport = unsecured, class Peer = unsecured>
typename Io::template task<void> serve(Stream& stream, Exports& exports, context<Observer>& c,
                                       Policy& policy,
                                       [[maybe_unused]] const Transport& transport = no_tls,
                                       [[maybe_unused]] const Peer& peer = no_tls)
{
    try {
        if (!c.memory.begin_work()) {
            const typename context<Observer>::working_scope works{c};
            memory_wait<Io> wait{stream, c.memory};
            if (wait.for_work())
                co_await wait.ended();
            if (!wait.granted())
                co_return;
        }
        if constexpr (securing_transport<Transport>) {
            handshake::negotiator negotiator{c.limits, transport.tls(peer), c.begun.get()};
            co_await converse<Io>(stream, exports, negotiator, c, policy);
            if (!negotiator.starts_tls())
                co_return;
            auto secured = transport.upgrade(stream, peer);
            auto failed = secured.handshake_now();
            while (failed == boost::asio::error::would_block) {
                std::tie(failed) = co_await Io::wait_ready(secured);
                if (!failed)
                    failed = secured.handshake_now();
            }
            if (failed) {
                c.ended = failed;
            } else {
                c.secure(secured.info());
                auto inside = negotiator.inside_tls();
                co_await converse<Io>(secured, exports, inside, c, policy);
            }
            secured.close_now();
        } else {
            handshake::negotiator negotiator{c.limits, tls_mode::none, c.begun.get()};
            co_await converse<Io>(stream, exports, negotiator, c, policy);
        }
    } catch (...) {  // most likely no memory; only this client is disconnected
        c.ended = current_error();
    }
}

}  // namespace nbd::session

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
