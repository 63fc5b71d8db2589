// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/exports/export_set.hpp>

#include <optional>
#include <string_view>
#include <system_error>

namespace nbd_test {

/// Opens an export as a session does. Returns nothing and sets the error if that fails.
template <class Backend>
std::optional<typename nbd::export_set<Backend>::opened>
open(const nbd::export_set<Backend>& set, std::string_view name, const nbd::client& who,
     std::error_code& error)
{
    const auto found = set.registered(name);
    if (!found) {
        error = nbd::errc::unknown_export;
        return std::nullopt;
    }
    nbd::failure why;
    auto opened = nbd::exports::open(found, who, nbd::open_purpose::transmission, why);
    error = why.code;
    return opened;
}

}  // namespace nbd_test
