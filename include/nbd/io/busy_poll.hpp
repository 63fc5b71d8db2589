// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <thread>
#include <utility>

namespace nbd::io {

/// Lets other threads run on this processor. *Returns* whether one did, as far as the time tells.
struct give_way {
    bool operator()() const noexcept
    {
        using clock = std::chrono::steady_clock;
        constexpr std::chrono::microseconds a_switch{5};  // a call without a switch takes less
        const auto before = clock::now();
        std::this_thread::yield();
        return clock::now() - before > a_switch;
    }
};

/// The threads of this program that serve clients and do not sleep. A thread may poll while at
/// least half of the processors are left to others: to the clients, if they run on this system, and
/// to threads that have work.
/// *Thread safety*: any member from any thread.
class awake_threads {
public:
    [[nodiscard]] static bool leave_room() noexcept
    {
        static const unsigned most = std::max(1U, std::thread::hardware_concurrency() / 2);
        return count.load(std::memory_order_relaxed) <= most;
    }
    static void add() noexcept { count.fetch_add(1, std::memory_order_relaxed); }
    static void remove() noexcept { count.fetch_sub(1, std::memory_order_relaxed); }

private:
    static inline std::atomic<unsigned> count{0};
};

/// Decides whether a thread polls a socket before it sleeps. Waking a sleeping thread takes tens of
/// microseconds, so polling pays for a client that answers sooner. The decision follows the length
/// of the last waits, so that an idle client costs nothing, and the success of the last polls.
class busy_poll {
public:
    using clock = std::chrono::steady_clock;

    /// `budget`: the longest time to poll; zero: never.
    explicit busy_poll(std::chrono::nanoseconds budget) noexcept : budget_{budget} {}
    busy_poll(const busy_poll&) = delete;
    busy_poll& operator=(const busy_poll&) = delete;
    ~busy_poll()
    {
        if (is_awake_)
            awake_threads::remove();
    }

    [[nodiscard]] std::chrono::nanoseconds budget() const noexcept { return budget_; }
    [[nodiscard]] bool enabled() const noexcept { return budget_.count() > 0; }
    [[nodiscard]] bool pays() const noexcept { return enabled() && late_ == 0 && sent_ <= much; }
    /// Whether to call poll(2) before recv(2). Calling recv(2) at once saves a system call, but it
    /// disturbs a client that is about to send, and it receives the client's requests in smaller
    /// parts.
    [[nodiscard]] bool asks_first() const noexcept { return sent_ > little; }

    /// Calls `found()` until it returns true or the budget is spent. *Returns* whether it was true.
    /// Gives up as soon as another thread needs this processor, or too many threads are awake:
    /// polling pays only on an idle processor. `let_others_run`: see give_way.
    template <class Found, class LetOthersRun = give_way>
    [[nodiscard]] bool look(Found found, LetOthersRun let_others_run = {})
    {
        const auto end = clock::now() + budget_;
        for (bool crowded = !awake_threads::leave_room();;) {
            if (found()) {
                if (crowded)
                    back_off();
                else
                    misses_ = 0;
                return true;
            }
            if (crowded || clock::now() >= end) {
                back_off();
                return false;
            }
            crowded = let_others_run() || !awake_threads::leave_room();
        }
    }

    /// Reports the bytes sent since the last wait. A client processes a large reply before it sends
    /// its next request, so the time to wake a thread does not delay it, and polling does not pay.
    void sent(std::size_t bytes) noexcept { sent_ = bytes; }

    /// Reports the length of a wait. A wait that is too long ends the polling, until several waits
    /// in a row are short. These waits include the time to wake the thread.
    void waited(std::chrono::nanoseconds time) noexcept
    {
        if (time > budget_ * waking_costs)
            late_ = std::max(late_, in_a_row);
        else if (late_ != 0)
            --late_;
    }

    /// Calls `sleep()`, which waits for the client. From the first call on, the thread counts as
    /// awake while it does not.
    template <class Sleep>
    [[nodiscard]] auto while_asleep(Sleep sleep)
    {
        struct asleep {
            bool& counted;
            explicit asleep(bool& c) noexcept : counted{c}
            {
                if (std::exchange(counted, false))
                    awake_threads::remove();
            }
            ~asleep()
            {
                counted = true;
                awake_threads::add();
            }
        };
        const asleep now{is_awake_};
        return sleep();
    }

    /// Measures a wait of an event loop: calls `waited` with the time since `wait_begins`.
    /// `wait_ended` without `wait_begins` does nothing.
    void wait_begins() noexcept { begun_ = clock::now(); }
    void wait_ended() noexcept
    {
        if (begun_ != clock::time_point{})
            waited(clock::now() - std::exchange(begun_, clock::time_point{}));
    }

private:
    void back_off() noexcept
    {
        late_ = std::max(late_, 1 << misses_);
        misses_ = std::min(misses_ + 1, most_misses);
    }

    static constexpr int waking_costs = 4;
    static constexpr int in_a_row = 3;
    static constexpr std::size_t little = std::size_t{32} << 10;
    static constexpr std::size_t much = std::size_t{96} << 10;

    /// After so many polls in vain, 64 waits pass before the next one.
    static constexpr int most_misses = 6;

    std::chrono::nanoseconds budget_;
    std::size_t sent_ = 0;
    clock::time_point begun_{};  ///< of a wait that the caller measures
    int late_ = 0;               ///< short waits until polling begins again
    int misses_ = 0;             ///< polls in vain since the last success
    bool is_awake_ = false;      ///< counted in awake_threads
};

}  // namespace nbd::io
