// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/tls.hpp>

#include <cstdint>
#include <optional>
#include <string>

namespace nbd {

/// A connected client, for a backend's `open`, for lookups and for observers.
struct client {
    std::uint64_t id = 0;  ///< unique in the process, counted from 1
    std::string peer;      ///< for logs: "127.0.0.1:40312", "pid 4711 uid 1000"
    /// The export that it uses. It is the export's own name, also for a client that asked for the
    /// default export. During the handshake it is empty, except in a backend's `open` and in a
    /// lookup: there it is the export that is about to be opened, or the name that is looked up.
    std::string export_name{};
    /// Empty until the client has started TLS.
    std::optional<tls_info> tls{};
};

/// Why a backend's `open` is called.
enum class open_purpose {
    information,  ///< INFO, LIST_META_CONTEXT or SET_META_CONTEXT: the client asks about the export
    transmission,  ///< GO or EXPORT_NAME: the client is going to use the export
};

}  // namespace nbd
