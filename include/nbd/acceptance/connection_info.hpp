// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace nbd {

enum class connection_state {
    handshake,
    transmission,
    closing,  ///< the server has ended the connection; its session has not returned yet
};

/// One connection of a server, as server::connections() returns it.
struct connection_info {
    std::uint64_t id = 0;       ///< for server::disconnect(); that of nbd::client
    std::string peer;           ///< as nbd::client::peer
    std::string export_name{};  ///< empty during the handshake
    std::chrono::system_clock::time_point since{};  ///< when it was accepted
    connection_state state{};
};

}  // namespace nbd
