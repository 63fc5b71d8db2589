// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/terms.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace nbd {

/// The run-time limits of a server. Every byte from the network is untrusted; these bound what one
/// client can take from the others. Zero switches a limit off where it says so. A client that is over a
/// limit of time is let go within half a second, or within three where there are thousands.
struct settings {
    /// Clients at a time; 0 = no limit. A client over the limit waits in the backlog for a free
    /// place, and one that has negotiated for more than a second gives its place up. 100 is qemu's.
    std::size_t max_connections = 100;

    /// From accept to the end of the handshake, however slowly the bytes come; 0 = no limit. 10 s is
    /// qemu's.
    std::chrono::milliseconds handshake_deadline{10'000};
    /// Options before a client is let go; LIST adds as many for each export (nbdkit's rule).
    std::size_t options_per_handshake = 32;
    /// Data of one option, in bytes. More is consumed and refused. Real clients need about 24 KiB.
    std::size_t option_bytes = std::size_t{64} << 10;
    /// Data of all options of a handshake, in bytes. A client that sends more is let go.
    std::size_t handshake_bytes = std::size_t{1} << 20;
    /// Exports named in the answer to LIST.
    std::size_t exports_listed = 10'000;

    /// Block descriptors in one answer to BLOCK_STATUS; the specification wants at most 2^20.
    std::size_t extents_per_reply = 131'072;

    /// Between two pieces of one message from a client in transmission; 0 = no limit.
    std::chrono::milliseconds progress_timeout{60'000};
    /// For a client to take some of its replies; 0 = no limit.
    std::chrono::milliseconds send_timeout{60'000};
    /// Between two requests; 0 = no limit, the default, for kernel clients are idle for days.
    std::chrono::milliseconds idle_timeout{0};

    /// Requests of one client that are under way at the same time, where the backend is awaited, or
    /// promises `blocks` and has a strand_pool, and promises `parallel`; else it is one. 0 is as 1.
    std::size_t requests_in_flight = 64;
    /// Bytes of data that these have in memory; a single request may have more.
    std::size_t bytes_in_flight = std::size_t{64} << 20;
    /// Lets a request wait for those under way of the same client that write where it reads or writes,
    /// or read where it writes. A client that awaits a reply before it sends what depends on it does
    /// not need it.
    bool serialise_overlaps = false;

    /// How long a thread that blocks (per_client_threads with a backend that is not awaited) looks for
    /// the next request before it sleeps, as long as its client is as quick as that; 0 = never. A
    /// thread that sleeps takes about as long to wake.
    std::chrono::microseconds busy_poll{50};

    /// How long stop() waits for requests that are under way before it cuts their clients.
    std::chrono::milliseconds stop_grace{5'000};
};

/// What one export is to its clients, beside the backend that serves it.
struct export_settings {
    /// For LIST and INFO; nothing = the export's name. UTF-8, at most 4096 bytes.
    std::optional<std::string> description{};
    /// WRITE, TRIM and WRITE_ZEROES answer EPERM.
    bool read_only = false;
    /// Tells clients that seeking costs, whatever the backend promises.
    bool rotational = false;
    /// Advertised and enforced; nothing = the backend's own, or the specification's defaults.
    /// A minimum below the backend's own is refused.
    std::optional<protocol::block_sizes> blocks{};
    /// Abilities of the backend that clients shall not have, as transmission flags:
    /// `protocol::transmission_flag::send_trim | ...`. Can take away send_flush, send_fua,
    /// send_trim, send_write_zeroes, send_fast_zero, send_cache and can_multi_conn.
    std::uint16_t withhold = 0;
    /// Refuses clients that do not ask for the block sizes where these are not the defaults
    /// (ERR_BLOCK_SIZE_REQD); otherwise such clients are let in, and get errors if they misalign.
    bool require_block_sizes = false;
    /// Lets clients change the size by the RESIZE command (extension-resize), where the backend can.
    bool allow_resize = false;
};

}  // namespace nbd
