// SPDX-License-Identifier: MIT
// What a client does while an allocation of the server fails.
#pragma once

#include "grid/client.hpp"

#include <boost/asio/local/stream_protocol.hpp>

#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace faults {

using endpoint = boost::asio::local::stream_protocol::endpoint;

/// The server's answer was wrong, or missing.
struct wrong : std::logic_error {
    using std::logic_error::logic_error;
};

struct scenario {
    std::string name;
    /// Runs it; a client that it returns stays connected. Throws what grid's clients throw if the
    /// connection ends early or an option is refused, and `wrong`.
    std::function<std::optional<grid::raw_client>(const endpoint&)> play;
    /// The allocation may also fail while the server stops.
    bool stops = false;
    /// The allocation may also fail while the server starts.
    bool starts = false;
};

[[nodiscard]] const std::vector<scenario>& scenarios();

/// What a client does that must be served: a handshake, some requests, DISC.
void must_be_served(grid::raw_client& c);

}  // namespace faults
