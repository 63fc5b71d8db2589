// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/error.hpp>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <system_error>

namespace nbd::session {

/// The time as the sessions of a server know it: a count of ticks that one sweeper moves on. Reading
/// it costs a load, so that a deadline can be set around every system call of a session.
class ticker {
public:
    /// Short beside every limit of nbd::settings, long beside what a sweep costs.
    static constexpr std::chrono::milliseconds tick{250};

    [[nodiscard]] std::uint64_t now() const noexcept
    {
        return now_.load(std::memory_order_relaxed);
    }
    void advance_to(std::uint64_t ticks) noexcept { now_.store(ticks, std::memory_order_relaxed); }

    /// Ticks that are certainly not less than `d`, counted from any moment inside the present tick.
    [[nodiscard]] static constexpr std::uint64_t ticks(std::chrono::milliseconds d) noexcept
    {
        return static_cast<std::uint64_t>((d + tick - std::chrono::milliseconds{1}) / tick) + 1;
    }

private:
    std::atomic<std::uint64_t> now_{0};
};

/// By when a client must have done what its session waits for. The session arms and disarms it
/// around its waits; the server's sweeper asks `overdue` from another thread and then cuts the
/// connection, which ends the wait. One object for both kinds of I/O, and no timer for each client.
class deadline {
public:
    explicit deadline(const ticker& clock) noexcept : clock_{clock} {}

    /// Zero milliseconds is no limit.
    void arm(std::chrono::milliseconds patience, errc otherwise) noexcept
    {
        if (patience.count() <= 0) {
            disarm();
            return;
        }
        otherwise_.store(otherwise, std::memory_order_relaxed);
        due_.store(clock_.now() + ticker::ticks(patience), std::memory_order_relaxed);
    }
    void disarm() noexcept { due_.store(never, std::memory_order_relaxed); }

    [[nodiscard]] bool overdue() const noexcept
    {
        return due_.load(std::memory_order_relaxed) <= clock_.now();
    }
    /// What the client is let go for when it is overdue.
    [[nodiscard]] errc reason() const noexcept
    {
        return otherwise_.load(std::memory_order_relaxed);
    }

private:
    static constexpr std::uint64_t never = std::numeric_limits<std::uint64_t>::max();
    const ticker& clock_;
    std::atomic<std::uint64_t> due_{never};
    std::atomic<errc> otherwise_{};
};

}  // namespace nbd::session
