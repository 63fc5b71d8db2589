// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstddef>
#include <thread>
#include <utility>

namespace nbd::io {

/// Whether it pays to look at a socket again and again instead of sleeping until something comes. A
/// thread that sleeps costs tens of microseconds to wake; a client that answers sooner is better
/// awaited awake. It learns from how long the last waits were, so that an idle client costs nothing.
class busy_poll {
public:
    using clock = std::chrono::steady_clock;

    /// Looks for at most `budget` at a time; zero = never.
    explicit busy_poll(std::chrono::nanoseconds budget) noexcept : budget_{budget} {}

    [[nodiscard]] std::chrono::nanoseconds budget() const noexcept { return budget_; }
    [[nodiscard]] bool enabled() const noexcept { return budget_.count() > 0; }
    [[nodiscard]] bool pays() const noexcept { return enabled() && late_ == 0 && sent_ <= much; }
    /// Whether it is better to ask if there is something than to try to take it, which costs a call less,
    /// but gets in the way of a client that is about to send, and takes what it sends in smaller parts.
    [[nodiscard]] bool asks_first() const noexcept { return sent_ > little; }

    /// Asks `found()` until it is true or the budget is spent. Whether it was true.
    template <class Found>
    [[nodiscard]] bool look(Found found) const
    {
        const auto end = clock::now() + budget_;
        do {
            if (found())
                return true;
            std::this_thread::yield();  // whoever is to bring something may want this processor
        } while (clock::now() < end);
        return false;
    }

    /// So many bytes were sent since the last wait. A client that got much has much to do before it
    /// asks again, and does not miss the time that waking up takes.
    void sent(std::size_t bytes) noexcept { sent_ = bytes; }

    /// A wait took that long. One that was too long to be awaited awake ends the looking, until
    /// several in a row were short enough again; waking up is part of those.
    void waited(std::chrono::nanoseconds time) noexcept
    {
        if (time > budget_ * waking_costs)
            late_ = in_a_row;
        else if (late_ != 0)
            --late_;
    }

    /// Measures a wait that another thread's event loop makes; `wait_ended` without `wait_begins` does nothing.
    void wait_begins() noexcept { begun_ = clock::now(); }
    void wait_ended() noexcept
    {
        if (begun_ != clock::time_point{})
            waited(clock::now() - std::exchange(begun_, clock::time_point{}));
    }

private:
    static constexpr int waking_costs = 4;
    static constexpr int in_a_row = 3;
    static constexpr std::size_t little = std::size_t{32} << 10;
    static constexpr std::size_t much = std::size_t{96} << 10;

    std::chrono::nanoseconds budget_;
    std::size_t sent_ = 0;
    clock::time_point begun_{};  ///< of a wait that is measured from outside
    int late_ = 0;               ///< short waits that are wanted before the next look
};

}  // namespace nbd::io
