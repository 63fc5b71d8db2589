// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <optional>

namespace nbd {

/// For removal::clients: how long the clients of a removed export stay connected, with requests
/// that fail.
struct disconnect_after {
    std::chrono::milliseconds grace{0};
};

/// What export_set::remove does besides removing the export.
struct removal {
    /// Closes the connections of the clients that use the export; nothing = they stay connected.
    /// The servers check this four times a second; see nbd::settings. The observer gets
    /// errc::export_removed.
    std::optional<disconnect_after> clients{};
};

}  // namespace nbd

namespace nbd::exports {

/// Whether an export is still in its set. All that have opened it under its name share this object.
/// *Thread safety*: any thread.
class presence {
public:
    using clock = std::chrono::steady_clock;

    /// Whether the export was removed.
    [[nodiscard]] bool gone() const noexcept { return gone_.load(std::memory_order_relaxed); }
    /// Whether the connections of its clients are to be closed.
    [[nodiscard]] bool disconnects(clock::time_point now) const noexcept
    {
        return gone() && now.time_since_epoch().count() >= until_.load(std::memory_order_relaxed);
    }
    /// *Returns* whether the backend's `drain` is to be called for the removal: true once.
    [[nodiscard]] bool drains() noexcept { return gone() && !drained_.exchange(true); }
    void remove(const removal& how) noexcept
    {
        if (how.clients) {
            const auto now = clock::now();
            const auto longest = clock::time_point::max() - now;
            const auto grace = std::max(how.clients->grace, std::chrono::milliseconds{0});
            if (grace < std::chrono::duration_cast<std::chrono::milliseconds>(longest))
                until_.store((now + grace).time_since_epoch().count(), std::memory_order_relaxed);
        }
        gone_.store(true, std::memory_order_relaxed);
    }

private:
    std::atomic<bool> gone_{false};
    std::atomic<bool> drained_{false};
    std::atomic<clock::rep> until_{std::numeric_limits<clock::rep>::max()};
};

}  // namespace nbd::exports
