// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/deadline.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace nbd::acceptance {

/// Advances the time of a server's sessions, and looks for clients that exceed a time limit.
/// *Thread safety*: `clock` from any thread; the rest from one at a time.
class sweeper {
public:
    [[nodiscard]] const session::ticker& clock() const noexcept { return clock_; }
    [[nodiscard]] std::uint64_t now() const noexcept { return clock_.now(); }

    void advance() noexcept
    {
        const auto elapsed = std::chrono::steady_clock::now() - epoch_;
        clock_.advance_to(static_cast<std::uint64_t>(elapsed / session::ticker::tick));
    }
    /// With thousands of connections a sweep takes long, so it is done less often.
    template <class Connections>
    void sweep(Connections& all) noexcept
    {
        const std::uint64_t interval =
            1 + std::min<std::uint64_t>(std::uint64_t{all.count()} / 2500, 7);
        if (now() - swept_ < interval)
            return;
        all.cut_overdue(interval);
        swept_ = now();
    }

private:
    session::ticker clock_;
    const std::chrono::steady_clock::time_point epoch_ = std::chrono::steady_clock::now();
    std::uint64_t swept_ = 0;  ///< in ticks
};

}  // namespace nbd::acceptance
