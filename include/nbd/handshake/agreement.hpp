// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/chunk.hpp>
#include <nbd/protocol/terms.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nbd::handshake {

/// A metadata context that the client selected.
struct selected_context {
    std::uint32_t id = 0;   ///< as the client knows it
    std::size_t index = 0;  ///< in export_info::contexts

    friend bool operator==(const selected_context&, const selected_context&) = default;
};

/// What a handshake has settled for the transmission phase.
struct agreement {
    protocol::export_terms terms;
    protocol::reply_style style = protocol::reply_style::simple;
    std::vector<selected_context> contexts{};
};

}  // namespace nbd::handshake
