// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/error.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <system_error>

namespace nbd::session {

/// The time of a server's sessions: a count of ticks that the server's sweeper advances. Reading it
/// costs one load, so a session can set a deadline around each of its system calls.
/// *Thread safety*: any member from any thread.
class ticker {
public:
    /// Short compared with every limit of nbd::settings, long compared with the cost of a sweep.
    static constexpr std::chrono::milliseconds tick{250};
    /// In a second.
    static constexpr std::uint64_t frequency = std::chrono::seconds{1} / tick;

    [[nodiscard]] std::uint64_t now() const noexcept
    {
        return now_.load(std::memory_order_relaxed);
    }
    void advance_to(std::uint64_t ticks) noexcept { now_.store(ticks, std::memory_order_relaxed); }

    /// Ticks that last at least `d`, counted from any moment inside the present tick.
    [[nodiscard]] static constexpr std::uint64_t ticks(std::chrono::milliseconds d) noexcept
    {
        if (d.count() <= 0)
            return 1;
        return static_cast<std::uint64_t>((d - std::chrono::milliseconds{1}) / tick) + 2;
    }

private:
    std::atomic<std::uint64_t> now_{0};
};
/// At least a second, in ticks.
inline constexpr std::uint64_t second = ticker::ticks(std::chrono::seconds{1});

/// The time by which a client must do what its session waits for. The session arms and disarms it
/// around its waits. The server's sweeper asks `overdue` and then ends the connection, which ends
/// the wait. It serves both kinds of I/O and needs no timer for each client.
/// *Thread safety*: `arm`, `begin_transfer`, `moved`, `postpone_since` and `disarm` from the
/// session; the rest from any thread.
class deadline {
public:
    static constexpr std::uint64_t never = std::numeric_limits<std::uint64_t>::max();

    explicit deadline(const ticker& clock) noexcept : clock_{clock} {}

    /// The client must act within `patience`; zero or less is no limit. `otherwise` is the reason
    /// for ending the connection.
    void arm(std::chrono::milliseconds patience, errc otherwise) noexcept
    {
        const auto now = clock_.now();
        arm_from(now, now, patience, otherwise);
    }

    /// A message begins, in which the client has to move bytes.
    void begin_transfer() noexcept
    {
        begun_ = clock_.now();
        moved_ = 0;
    }
    /// The client has moved `n` bytes of the message.
    void moved(std::uint64_t n) noexcept { moved_ += n; }
    /// As `arm`, for the next bytes of the message. The patience is counted from now, or from when
    /// the bytes that were moved would have been at `rate` bytes per second, if that is earlier: a
    /// client that is slower than `rate` falls behind. Zero is no least rate.
    void arm_transfer(std::chrono::milliseconds patience, std::uint64_t rate,
                      errc otherwise) noexcept
    {
        const auto now = clock_.now();
        arm_from(now, rate == 0 ? now : std::min(now, begun_ + in_ticks(moved_, rate)), patience,
                 otherwise);
    }
    [[nodiscard]] std::uint64_t now() const noexcept { return clock_.now(); }
    /// Since the tick `begun` the client could not act: it gets that time in addition.
    void postpone_since(std::uint64_t begun) noexcept
    {
        if (const auto due = due_.load(std::memory_order_relaxed); due != never)
            due_.store(due + (now() - begun), std::memory_order_relaxed);
    }
    void disarm() noexcept
    {
        due_.store(never, std::memory_order_relaxed);
        since_.store(never, std::memory_order_relaxed);
        silent_.store(never, std::memory_order_relaxed);
    }

    [[nodiscard]] bool overdue() const noexcept
    {
        return due_.load(std::memory_order_relaxed) <= clock_.now();
    }
    /// The tick since which the client makes too little progress; `never` while nothing is expected
    /// of it.
    [[nodiscard]] std::uint64_t since() const noexcept
    {
        return since_.load(std::memory_order_relaxed);
    }
    /// The tick since which the client has moved no byte at all; `never` while nothing is expected
    /// of it.
    [[nodiscard]] std::uint64_t silent_since() const noexcept
    {
        return silent_.load(std::memory_order_relaxed);
    }
    /// The reason for ending the connection.
    [[nodiscard]] errc reason() const noexcept
    {
        return otherwise_.load(std::memory_order_relaxed);
    }

private:
    /// Ticks that `bytes` take.
    [[nodiscard]] static std::uint64_t in_ticks(std::uint64_t bytes, std::uint64_t rate) noexcept
    {
        return bytes / rate * ticker::frequency + bytes % rate / (rate / ticker::frequency + 1);
    }
    void arm_from(std::uint64_t now, std::uint64_t since, std::chrono::milliseconds patience,
                  errc otherwise) noexcept
    {
        silent_.store(now, std::memory_order_relaxed);
        otherwise_.store(otherwise, std::memory_order_relaxed);
        since_.store(since, std::memory_order_relaxed);
        due_.store(patience.count() <= 0 ? never : since + ticker::ticks(patience),
                   std::memory_order_relaxed);
    }

    const ticker& clock_;
    std::uint64_t begun_ = 0;
    std::uint64_t moved_ = 0;
    std::atomic<std::uint64_t> due_{never};
    std::atomic<std::uint64_t> since_{never};
    std::atomic<std::uint64_t> silent_{never};
    std::atomic<errc> otherwise_{};
};

}  // namespace nbd::session
