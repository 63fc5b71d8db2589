// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/backend_types.hpp>
#include <nbd/vocabulary/failure.hpp>

#include <map>
#include <memory>
#include <optional>
#include <utility>

namespace nbd::exports {

/// A call of `drain` that is to be made.
struct drain_order {
    explicit drain_order(std::shared_ptr<void> r) : record{std::move(r)} {}

    std::shared_ptr<void> record;  ///< an export_record
    drain_reason why = drain_reason::last_client_left;
    std::optional<drain_reason> next{};  ///< another call, after the present one
    bool runs = false;
    failure outcome{};              ///< of the present call
    drain_order* behind = nullptr;  ///< in a queue
};

/// Orders by their shared_backend. A client of a backend with `drain` brings one along, so that
/// none is lost where memory is short: it moves from map to map without an allocation.
using drain_orders = std::map<const void*, drain_order>;

}  // namespace nbd::exports
