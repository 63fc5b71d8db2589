// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/terms.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace nbd {

/// The run-time limits of a server. They bound what one client can take from the others. Zero switches a limit
/// off where its comment says so. The server looks at limits of time four times a second, less often
/// with more than 2,500 clients, at least every two seconds. Every duration is accepted, also
/// `milliseconds::max()`.
///
/// Worst case of memory, in bytes, for buffers that clients can cause:
///
///     server_memory                           all clients together, waited for by not reading
///     + max_connections x (24 KiB + requests_in_flight x 6 KiB)    what connections hold at rest
///     + 64 MiB                                free blocks that the threads of the program keep
///
/// Not in it: stacks of threads (per_client_threads: one for each client), the system's socket and pipe
/// buffers, what a backend or an observer allocates, and memory that a backend lends.
struct settings {
    /// Connections at a time; 0 = no limit. 100 is qemu's.
    ///
    /// When all places are taken, a new connection waits until one is free, later ones in the backlog,
    /// and one connection is closed for it (errc::evicted): the one that has been in its handshake longest, if
    /// that is a second or more; otherwise the one that has been without a request longest, if that is
    /// `evict_idle_after` or more. A connection with requests in flight, or in the middle of one, is not
    /// closed. `places_per_peer` changes this rule for peers with many connections.
    std::size_t max_connections = 100;
    /// The share of one peer, which is an IP address or the user of a UNIX socket; 0 = no shares. A peer
    /// may have more connections while there are places.
    ///
    /// When all places are taken, a peer with less than its share gets a place from a peer with more: one is
    /// closed by the rule above, or else the newest. A new connection of a peer that has its share gets
    /// the place of one of the peer's own, by the rule above, or is closed. So one peer cannot keep others
    /// out, if this is less than max_connections.
    std::size_t places_per_peer = 32;
    /// How long a connection is without a request before it gives way to another; 0 = it never does. While
    /// there are places, an idle connection stays.
    std::chrono::milliseconds evict_idle_after{60'000};

    /// From accept to the end of the handshake; 0 = no limit. 10 s is qemu's.
    std::chrono::milliseconds handshake_deadline{10'000};
    /// Options before the connection is closed; LIST adds as many for each export (nbdkit's rule). Also
    /// the times that a client can cause a backend's `open`; LIST adds one for each export.
    std::size_t options_per_handshake = 32;
    /// Data of one option, in bytes. A longer option is consumed and refused. Real clients need about 24 KiB.
    std::size_t option_bytes = std::size_t{64} << 10;
    /// Data of all options of a handshake, in bytes. The connection of a client that sends more is closed.
    std::size_t handshake_bytes = std::size_t{1} << 20;
    /// Exports named in the answer to LIST.
    std::size_t exports_listed = 10'000;

    /// Block descriptors in one answer to BLOCK_STATUS; the specification allows at most 2^20.
    std::size_t extents_per_reply = 131'072;

    /// Memory of all clients together, in bytes: buffers of connections that are not idle (512 KiB each,
    /// from a quarter of this), and data of requests (the other three quarters). A client for which
    /// there is none waits, in order of arrival: its socket is not read. Less than 2 MiB counts as
    /// 2 MiB; 0 = no limit.
    ///
    /// A client that makes no progress keeps its memory while no other client waits for some. When one
    /// does, the client stalled longest is disconnected (errc::evicted), see `stall_grace`.
    std::size_t server_memory = std::size_t{1} << 30;
    /// Memory of one client, in bytes, counted in the same way. A request is begun when its memory fits; a
    /// request that never fits, here or in server_memory, gets ENOMEM. Less than 2 MiB counts as
    /// 2 MiB; 0 = no limit. The default holds the longest request of an export with the default block sizes.
    std::size_t client_memory = std::size_t{64} << 20;

    /// Between two pieces of one message from a client in transmission; 0 = no limit.
    std::chrono::milliseconds progress_timeout{60'000};
    /// For a client to take some of its replies; 0 = no limit.
    std::chrono::milliseconds send_timeout{60'000};
    /// Bytes per second that a client has to send of a message, or to take of its replies; 0 = no limit.
    /// A client that falls behind by progress_timeout or send_timeout is disconnected. So a message of n
    /// bytes takes at most that time plus n / least_transfer_rate seconds.
    std::uint64_t least_transfer_rate = std::uint64_t{32} << 10;
    /// A client that has made no progress for that long, in its handshake, in a message or in taking its
    /// replies, may be disconnected while another client waits for memory.
    std::chrono::milliseconds stall_grace{5'000};
    /// Between two requests; 0 = no limit, the default, because kernel clients are idle for days.
    std::chrono::milliseconds idle_timeout{0};

    /// Requests of one client in flight, where the backend is awaited, or promises `blocks` and has a
    /// strand_pool, and promises `parallel`; otherwise one. 0 means 1.
    std::size_t requests_in_flight = 64;
    /// Delays a request until the requests in flight of the same client that overlap it have ended, where one
    /// of the two writes. A client that waits for a reply before it sends what depends on it does not
    /// need it.
    bool serialise_overlaps = false;

    /// How long a thread of the library (per_client_threads, strand_pool) polls for the next request before it
    /// sleeps. A thread polls only while its clients send their next request within that time; an idle
    /// client costs no processor time. Default 50 us, about the time that a sleeping thread needs to wake.
    /// 0 disables polling; at most a second. Contexts of the program (on_executor) are not polled.
    std::chrono::microseconds busy_poll{50};

    /// Sends clients what() of a backend's exception, or the message of its error code. Off: clients get a
    /// fixed message for the error value, because such texts can be confidential. The text of an
    /// nbd::failure is sent in both cases, and the observer gets everything in both cases.
    bool send_error_details = false;

    /// How long stop() waits for requests in flight before it closes their connections.
    std::chrono::milliseconds stop_grace{5'000};
};

/// Properties of one export, beside the backend that serves it.
struct export_settings {
    /// For LIST and INFO; nothing = the export's name. UTF-8, at most 4096 bytes.
    std::optional<std::string> description{};
    /// WRITE, TRIM and WRITE_ZEROES answer EPERM.
    bool read_only = false;
    /// Tells clients that seeking is slow, whatever the backend promises.
    bool rotational = false;
    /// Advertised and enforced; nothing = the backend's own, or the specification's defaults.
    /// A minimum below the backend's own is refused.
    std::optional<protocol::block_sizes> blocks{};
    /// Abilities of the backend that are withheld from clients, as transmission flags:
    /// `protocol::transmission_flag::send_trim | ...`. Accepts send_flush, send_fua, send_trim,
    /// send_write_zeroes, send_fast_zero, send_cache and can_multi_conn.
    std::uint16_t withhold = 0;
    /// Refuses clients that do not ask for the block sizes where these are not the defaults
    /// (ERR_BLOCK_SIZE_REQD). Otherwise such clients are accepted, and their misaligned requests fail.
    bool require_block_sizes = false;
    /// Allows clients to change the size by the RESIZE command, where the backend can; see
    /// "extension-resize" of the specification.
    bool allow_resize = false;
};

}  // namespace nbd
