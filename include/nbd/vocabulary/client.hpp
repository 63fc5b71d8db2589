// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

namespace nbd {

/// A connected client, for a backend's `open` and for observers.
struct client {
    std::uint64_t id = 0;  ///< unique in the process, counted from 1
    std::string peer;      ///< for logs: "127.0.0.1:40312", "pid 4711 uid 1000"
    /// The export that it uses; empty during the handshake. It is the export's own name, also for a
    /// client that asked for the default export.
    std::string export_name{};
};

}  // namespace nbd
