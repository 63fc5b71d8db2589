// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/terms.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace nbd {

/// The run-time settings of a server. Most of them limit what one client can take from the others.
/// Zero disables a limit if its comment says so. The server checks time limits four times a second;
/// with 2,500 or more connections less often, but at least every two seconds. Every time limit is
/// valid, also `milliseconds::max()`.
///
/// The worst case of the memory for buffers that clients can cause is, in bytes:
///
///     server_memory        all clients together; a client that gets none waits
///     + max_connections x (24 KiB + requests_in_flight x 6 KiB)    kept also while idle
///     + 64 MiB             free blocks; more of them only while less of server_memory is used
///
/// This does not include the stacks of threads (per_client_threads: one for each client), the
/// system's socket and pipe buffers, memory that a backend or an observer allocates, memory that a
/// backend lends, and what OpenSSL allocates (tls_transport).
struct settings {
    /// The number of places: connections at a time; 0 = no limit. The default is that of qemu.
    ///
    /// When all places are taken, a new connection waits for a place, at most for
    /// `handshake_deadline`; then it is closed. Later ones wait in the backlog. The server closes
    /// one connection for it (errc::evicted): the one that has been in its handshake longest, if
    /// that is at least a second; otherwise the one that has been without a request longest, if
    /// that is at least `evict_idle_after`; otherwise the one whose client is in the middle of
    /// a message, or of taking its replies, and has moved no byte for longest, if that is at least
    /// `stall_grace`. It closes no other connection that has requests in flight or has sent a part
    /// of a request. `places_per_peer` and `places_per_identity` change this rule for clients with
    /// many connections.
    std::size_t max_connections = 100;
    /// The share of one peer in the places; 0 = peers have no share. A peer is an IP address, or
    /// the user of a UNIX socket. While places are free, a peer may have more connections than its
    /// share. When all places are taken:
    /// - A peer with less than its share gets a place from a peer with more. The server closes a
    ///   connection of that peer: by the rule above, otherwise the newest, even if it has requests
    ///   in flight.
    /// - A new connection of a peer that has its share replaces one of the same peer, by the rule
    ///   above, or waits for a free place. New connections of other peers are served first. When
    ///   16 wait, those that have waited for a second are closed.
    ///
    /// So one peer cannot keep others out, if this is less than max_connections.
    std::size_t places_per_peer = 32;
    /// The share of one identity in the places; 0 = identities have no share. An identity is that
    /// of a pre-shared key, or the subject of a certificate, that a client has proved over TLS,
    /// from any address. When all places are taken, and a client waits whose peer has less than its
    /// share, an identity with more than its share gives up a connection in the same way as a peer.
    /// It has no effect without nbd::tls_transport.
    std::size_t places_per_identity = 32;
    /// How long a connection must be without a request before it can be closed for a new one; 0 =
    /// it never is. While places are free, an idle connection stays.
    std::chrono::milliseconds evict_idle_after{60'000};

    /// The longest handshake; 0 = no limit. The default is that of qemu. Calls of the program are
    /// not counted: `authorise`, lookups, lists, and a backend's `open`. `options_per_handshake`
    /// limits their number, so they prolong a handshake by that number times the longest call; LIST
    /// calls `authorise` for each export.
    std::chrono::milliseconds handshake_deadline{10'000};
    /// Options that a client may send; for more the connection is closed. Each export that LIST
    /// names adds as many (the rule of nbdkit). The same number limits how often a client can cause
    /// a call of a backend's `open`; there each export that LIST names adds one. It also limits the
    /// calls of on_lookup and on_list; there each export that LIST names adds four. Only the first
    /// LIST adds to these limits.
    std::size_t options_per_handshake = 32;
    /// Data of one option, in bytes. A longer option is discarded and refused. Real clients need at
    /// most about 24 KiB.
    std::size_t option_bytes = std::size_t{64} << 10;
    /// Data of all options of one handshake, in bytes. For more the connection is closed.
    std::size_t handshake_bytes = std::size_t{1} << 20;
    /// The most exports that the answer to LIST names. If there are more, the observer is told
    /// (errc::too_many_exports), and the client is not.
    std::size_t exports_listed = 10'000;

    /// Block descriptors in one reply to BLOCK_STATUS; the specification allows at most 2^20.
    std::size_t extents_per_reply = 131'072;

    /// Memory of all clients together, in bytes; 0 = no limit. Less than 2 MiB counts as 2 MiB. A
    /// quarter is for the buffers of connections that are not idle (512 KiB each); the rest is for
    /// data of requests. A client for which there is no memory waits, in order of arrival; the
    /// server does not read from its socket.
    ///
    /// A client that makes no progress keeps its memory while no other client waits for memory.
    /// When one waits, the client that has been stalled longest is disconnected (errc::evicted);
    /// see `stall_grace`. If none is stalled, it is the one that is farthest behind
    /// `least_transfer_rate`.
    std::size_t server_memory = std::size_t{1} << 30;
    /// Memory of one client, in bytes, counted in the same way; 0 = no limit. Less than 2 MiB
    /// counts as 2 MiB. A request begins when its memory fits. A request that can never fit, here
    /// or in server_memory, gets ENOMEM. The default is enough for the longest request of an export
    /// with the default block sizes.
    std::size_t client_memory = std::size_t{64} << 20;

    /// The longest wait for the next bytes of a message, after the handshake; 0 = no limit. The
    /// default is 0: a client that is stopped (a suspended machine, a paused virtual one) goes on
    /// later, unless another one needs its place or its memory meanwhile; see `stall_grace`.
    std::chrono::milliseconds progress_timeout{0};
    /// The longest wait until a client takes some bytes of its replies; 0 = no limit. The default
    /// is 0, for the same reason. Over TCP see also tcp_transport::settings::user_timeout.
    std::chrono::milliseconds send_timeout{0};
    /// A rate in bytes per second; 0 = none. A client that sends a message or takes its replies
    /// more slowly falls behind. One that is behind by progress_timeout or send_timeout is
    /// disconnected, so a message of n bytes takes at most that timeout plus n /
    /// least_transfer_rate seconds. Without these timeouts, and that is the default, a slow client
    /// is only disconnected when another one waits for memory; see `server_memory`.
    std::uint64_t least_transfer_rate = std::uint64_t{32} << 10;
    /// How long a client must have made no progress before it can be disconnected for another
    /// client that waits for a place or for memory. Progress is expected in the handshake, in a
    /// message, and in taking replies; every byte counts.
    std::chrono::milliseconds stall_grace{5'000};
    /// The longest wait between two requests; 0 = no limit. The default is 0, because kernel
    /// clients can be idle for days.
    std::chrono::milliseconds idle_timeout{0};

    /// Requests of one client that are in flight at a time; 0 counts as 1. It applies to a backend
    /// that promises `parallel` and whose calls are awaited, use callbacks, or run on the extra
    /// threads of strand_pool (`blocks`). Other backends have one request in flight.
    std::size_t requests_in_flight = 64;
    /// Makes a request wait until earlier requests of the same client that overlap it have ended,
    /// if one of the two writes. A client that waits for a reply before it sends a dependent
    /// request does not need this.
    bool serialize_overlaps = false;

    /// How long a thread of the library (per_client_threads, strand_pool) polls for the next
    /// request before it sleeps; 0 = never; at most a second. A thread polls only while its clients
    /// send their next request within that time, so an idle client costs no processor time. The
    /// default is about the time that a sleeping thread needs to wake. No thread polls while
    /// another one needs its processor, or while the awake threads of the server would leave less
    /// than half of the processors to others. The program's context (on_executor) is not polled.
    std::chrono::microseconds busy_poll{50};

    /// Whether clients get the what() of a backend's exception, or the message of its error code.
    /// If false, they get a fixed message for the error value, because such texts can be
    /// confidential. In both cases clients get the text of an nbd::failure, and the observer gets
    /// everything.
    bool send_error_details = false;

    /// How long stop() waits for requests in flight before it closes their connections. Cancelling
    /// async_stop ends this time.
    std::chrono::milliseconds stop_grace{5'000};
    /// How long stop() then waits for `drain` of the backends, for all exports together. One that
    /// is synchronous is waited for in any case. At most 64 of these calls run at a time; one that
    /// has not begun within this time is not made, and at_drain_error gets timed_out. Cancelling
    /// async_stop ends this time. While the server runs, `drain` has no limit.
    std::chrono::milliseconds drain_grace{30'000};
};

/// Properties of one export that its backend does not determine.
struct export_settings {
    /// The description in LIST and INFO; nothing = the export's name. UTF-8, at most 4096 bytes.
    std::optional<std::string> description{};
    /// WRITE, TRIM and WRITE_ZEROES fail with EPERM. Not needed for a backend that is read-only by
    /// its type or says so at run time (`abilities`), such as a file opened for reading.
    bool read_only = false;
    /// Tells clients that seeks are expensive, also if the backend does not promise it.
    bool rotational = false;
    /// The block sizes that are advertised and enforced; nothing = the backend's, or the
    /// specification's defaults. A minimum below the backend's is an error.
    std::optional<protocol::block_sizes> blocks{};
    /// Abilities of the backend that clients do not get, as transmission flags:
    /// `protocol::transmission_flag::send_trim | ...`. Possible are send_flush, send_fua,
    /// send_trim, send_write_zeroes, send_fast_zero, send_cache and can_multi_conn.
    std::uint16_t withhold = 0;
    /// Refuses a client that does not ask for the block sizes (ERR_BLOCK_SIZE_REQD), unless they
    /// are the defaults. If false, the server accepts such a client, and its misaligned requests
    /// fail.
    bool require_block_sizes = false;
    /// Allows clients to change the size by the RESIZE command, if the backend has `resize`; see
    /// "extension-resize" of the specification.
    bool allow_resize = false;
    /// Only clients that have started TLS can open the export, or see it in LIST. With
    /// tls_mode::none, and without nbd::tls_transport, nobody can.
    bool tls_only = false;

    friend bool operator==(const export_settings&, const export_settings&) = default;
};

}  // namespace nbd
