// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

namespace nbd {

/// A connected client, for a backend's `open` and for observers.
struct client {
    std::uint64_t id = 0;  ///< unique in its server, counted from 1
    std::string peer;      ///< for logs: "127.0.0.1:40312", "pid 4711 uid 1000"
};

}  // namespace nbd
