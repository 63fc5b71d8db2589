// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/backend_types.hpp>

#include <atomic>
#include <memory>
#include <optional>
#include <utility>

namespace nbd::exports {

/// A call of `drain` that is to be made. A client of a backend with `drain` brings one along, so
/// that none is lost where memory is short.
struct drain_order {
    explicit drain_order(std::shared_ptr<void> r) : record{std::move(r)} {}

    std::shared_ptr<void> record;  ///< an export_record
    drain_reason why = drain_reason::last_client_left;
    std::optional<drain_reason> next{};  ///< another call, after the present one
    std::atomic<bool> runs{false};
};

}  // namespace nbd::exports
