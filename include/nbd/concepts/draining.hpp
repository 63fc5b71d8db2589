// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/outcome.hpp>
#include <nbd/vocabulary/backend_types.hpp>

/// The member of a backend that the server calls when nobody uses the backend; see
/// concepts/backend.hpp.
namespace nbd {

/// Completes what the backend has postponed: `outcome drain(drain_reason why)`. A cache writes back
/// what is not yet in its store, for example. Called while a server runs,
/// - with last_client_left, when the last client in transmission has left the export;
/// - with export_removed, when the export was removed and its last client has left; at once if it
///   had none. It is the last call of the backend, which is destroyed after it;
/// - with server_stopped, for every export in the set of a server that stops, when all clients of
///   this server have left. stop(), async_stop and wait() wait for it.
///
/// An export that was looked up (export_set::on_lookup) is known to the server only while a client
/// has it open. So last_client_left may be the last call, also if the program keeps the object: no
/// other one follows, unless a client enters transmission again. Such an export gets export_removed
/// or server_stopped instead, if its clients leave after the removal or while the server stops.
///
/// All calls of these clients have completed, and the objects that `open` returned for them are
/// destroyed. A server calls it once at a time for each export, and skips last_client_left if
/// another client has come meanwhile. Each of several servers that share an export calls it with
/// server_stopped when it stops; the clients of the other servers may be connected then. With
/// `open`, `drain` is a member of the backend that has `open`.
///
/// It may be synchronous or awaited, in each kind of backend. An awaited one runs on an executor of
/// the server's policy, as the calls of a client do. A synchronous one is called on a thread of the
/// policy, with on_executor in a handler on the program's executor; with strand_pool, the drain of
/// a backend that promises `blocks` is called on one of the extra threads.
/// *Errors*: go to the observer (`at_drain_error`), also exceptions; nothing else follows.
/// *Thread safety*: as a call of one more client: with `serialize_all` no other call runs at the
/// same time. Otherwise calls of clients that open the export meanwhile may; they do not wait for
/// it. `open` is one of these calls.
/// *Cancellation*: a server that stops waits for settings.drain_grace, which the program can end by
/// cancelling async_stop. Then the observer gets std::errc::timed_out, and the server ends. An
/// awaited call gets asio::cancellation_type::terminal if the backend promises `cancellable`;
/// otherwise it goes on while its executor runs, a second with threads of the server. A synchronous
/// call cannot be interrupted, so the server waits for its end.
/// *Lifetime*: the backend lives until the call has completed.
template <class B>
concept has_drain = requires(B& b, const drain_reason why) {
    { b.drain(why) } -> outcome;
};
template <class B>
concept awaits_drain = requires(B& b, const drain_reason why) {
    { b.drain(why) } -> awaited_outcome;
};

}  // namespace nbd
