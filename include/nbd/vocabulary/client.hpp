// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

namespace nbd {

/// Who is served, as a backend's `open` and an observer see it.
struct client {
    std::uint64_t id = 0;  ///< unique in its server, counted from 1
    std::string peer;      ///< for people: "127.0.0.1:40312", "pid 4711 uid 1000"
};

}  // namespace nbd
