// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <string>
#include <utility>

namespace nbd {

/// What a client may do with an export; a larger value allows more.
enum class permission {
    refused,    ///< nothing: to the client, the export does not exist
    read_only,  ///< everything but commands that write, which get EPERM
    full,
};

/// What was decided about a client and an export.
struct decision {
    permission allowed = permission::refused;
    /// For the observer, if the client is refused: what is true of the client, "not user 1000".
    std::string reason{};

    decision() = default;
    decision(permission a, std::string why = {}) : allowed{a}, reason{std::move(why)} {}
    /// false: refused; true: full access.
    template <std::same_as<bool> Bool>
    decision(Bool yes) : allowed{yes ? permission::full : permission::refused}
    {
    }
};

}  // namespace nbd
