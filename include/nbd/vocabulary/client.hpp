// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/ip_address.hpp>
#include <nbd/vocabulary/tls.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <sys/types.h>

namespace nbd {

/// The process that created the client's end of a UNIX connection, as the system reports it.
struct unix_process {
    ::pid_t process = 0;  ///< 0 if it is outside of the server's PID namespace
    ::uid_t user = 0;
    ::gid_t group = 0;  ///< its effective group; supplementary groups are not reported
};

/// A connected client, for `authorise`, a backend's `open`, lookups and observers.
struct client {
    std::uint64_t id = 0;  ///< unique in the process, counted from 1
    std::string peer;      ///< for logs: "127.0.0.1:40312", "pid 4711 uid 1000"
    /// The export that it uses. It is the export's own name, also for a client that asked for the
    /// default export. During the handshake it is empty, except in `authorise`, in a lookup and in
    /// a backend's `open`: there it is the export that the client asks for, or that LIST is about
    /// to name.
    std::string export_name{};
    /// Empty until the client has started TLS.
    std::optional<tls_info> tls{};

    // What the transport's peer_type tells with `describe`; see nbd::transport.
    std::string_view transport{};           ///< "tcp", "unix", "vsock", "fd"; empty if not told
    std::optional<ip_address> address{};    ///< empty unless the transport has IP addresses
    std::uint16_t port = 0;                 ///< of the client, beside `address`
    std::optional<unix_process> process{};  ///< empty unless the system reports it
    std::optional<std::uint32_t> cid{};     ///< the virtual machine, of a vsock client
};

/// Why a backend's `open` is called.
enum class open_purpose {
    information,  ///< INFO, LIST_META_CONTEXT or SET_META_CONTEXT: the client asks about the export
    transmission,  ///< GO or EXPORT_NAME: the client is going to use the export
};

}  // namespace nbd
