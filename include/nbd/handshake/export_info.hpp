// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/meta_context.hpp>
#include <nbd/protocol/terms.hpp>

#include <span>
#include <string_view>

namespace nbd::handshake {

/// What the handshake tells a client about an export.
/// *Lifetime*: the views are valid as long as the opened export that returned them.
struct export_info {
    std::string_view name;  ///< the name that the export was added with
    std::string_view description;
    protocol::export_terms terms;
    std::span<const protocol::meta_context> contexts{};
    bool require_block_sizes = false;  ///< see export_settings
};

}  // namespace nbd::handshake
