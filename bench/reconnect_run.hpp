// SPDX-License-Identifier: MIT
#pragma once

#include "load_plan.hpp"
#include "load_run.hpp"
#include "processor_time.hpp"
#include "server_address.hpp"
#include "short_session.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <deque>
#include <exception>
#include <mutex>
#include <random>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

#include <sys/epoll.h>
#include <unistd.h>

namespace bench {

/// Short sessions, and those of them that can receive.
class session_set {
public:
    session_set(const export_address& to, const load_plan& plan, std::size_t sessions,
                std::uint64_t seed)
        : plan_{plan}, random_{seed}, fd_{::epoll_create1(EPOLL_CLOEXEC)}
    {
        for (std::size_t i = 0; i < sessions; ++i)
            sessions_.emplace_back(to, plan.block);
    }
    session_set(const session_set&) = delete;
    session_set& operator=(const session_set&) = delete;
    ~session_set() { ::close(fd_); }

    [[nodiscard]] std::deque<short_session>& all() noexcept { return sessions_; }

    /// Connects, and reads a block of the plan.
    void open(short_session& s)
    {
        next_ = plan_.random ? random_() % plan_.blocks : (next_ + 1) % plan_.blocks;
        s.open(now(), next_ * plan_.block);
        if (sessions_.size() == 1)
            return;  // it blocks
        ::epoll_event event{};
        event.events = EPOLLIN;
        event.data.ptr = &s;
        if (::epoll_ctl(fd_, EPOLL_CTL_ADD, s.native_handle(), &event) != 0)
            throw std::system_error{errno, std::system_category(), "epoll_ctl"};
    }
    /// Receives once for each session that can. Calls `f` with each whose READ is answered.
    template <class F>
    void receive(F answered)
    {
        if (sessions_.size() == 1) {
            if (sessions_.front().receive(patience::waits))
                answered(sessions_.front());
            return;
        }
        constexpr int longest_wait = 20'000;  // ms
        const int n =
            ::epoll_wait(fd_, events_.data(), static_cast<int>(events_.size()), longest_wait);
        if (n < 0 && errno != EINTR)
            throw std::system_error{errno, std::system_category(), "epoll_wait"};
        if (n == 0)
            throw std::runtime_error{"the server has neither sent nor received for 20 s"};
        for (int i = 0; i < n; ++i) {
            auto& s = *static_cast<short_session*>(events_[static_cast<std::size_t>(i)].data.ptr);
            if (s.receive(patience::at_once))
                answered(s);
        }
    }

    /// The time in nanoseconds.
    [[nodiscard]] static std::uint64_t now() noexcept
    {
        return static_cast<std::uint64_t>(
            std::chrono::nanoseconds{std::chrono::steady_clock::now().time_since_epoch()}.count());
    }

private:
    load_plan plan_;
    std::deque<short_session> sessions_;
    std::mt19937_64 random_;
    std::uint64_t next_ = 0;
    int fd_;
    std::array<::epoll_event, 64> events_{};
};

/// Measures connections: loops that open a connection, read once, and close it. Each loop has one
/// connection at a time. A latency includes all of that.
class reconnect_run {
public:
    /// The loops are divided among at most `threads` threads. `to` must outlive this object.
    reconnect_run(const export_address& to, const load_plan& plan, std::size_t loops,
                  std::size_t threads)
        : to_{to}, plan_{plan}, loops_{loops}, threads_{std::min(threads, loops)}
    {
    }

    /// Runs once; `length.requests` counts the connections of all loops. `server` may be null.
    /// Errors: the first one of any connection, and those of reading the server's clock.
    [[nodiscard]] load_result run(const load_length& length, const process_tree* server)
    {
        limit_ = length.requests;
        std::vector<std::thread> running;
        const auto end = [&] {
            phase_ = phase::stop;
            for (auto& thread : running)
                thread.join();
            running.clear();
        };
        load_result result;
        try {
            for (std::size_t i = 0; i < threads_; ++i)
                running.emplace_back(&reconnect_run::work, this, i,
                                     loops_ * (i + 1) / threads_ - loops_ * i / threads_);
            wait(length.warm_up, [] { return false; });
            const auto client_before = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
            const auto server_before = server != nullptr ? server->seconds() : 0;
            const auto begin = std::chrono::steady_clock::now();
            phase_ = phase::measure;
            constexpr std::chrono::hours no_limit{24 * 365};
            wait(limit_ != load_client::unlimited ? std::chrono::duration<double>{no_limit}
                                                  : length.measured,
                 [this] { return done_; });
            const auto finish = std::chrono::steady_clock::now();
            if (server != nullptr)
                result.server_seconds = server->seconds() - server_before;
            result.client_seconds = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - client_before;
            result.seconds = std::chrono::duration<double>{finish - begin}.count();
        } catch (...) {
            end();
            throw;
        }
        end();
        if (failure_)
            std::rethrow_exception(failure_);
        result.sum = sum_;
        return result;
    }

private:
    enum class phase { warm_up, measure, stop };

    template <class Done>
    void wait(std::chrono::duration<double> time, Done done)
    {
        std::unique_lock lock{mutex_};
        changed_.wait_for(lock, time, [&] { return failure_ != nullptr || done(); });
        if (failure_)
            std::rethrow_exception(failure_);
    }

    void work(std::size_t number, std::size_t sessions) noexcept
    try {
        session_set set{to_, plan_, sessions, number + 1};
        tally counted;
        for (auto& s : set.all())
            set.open(s);
        for (std::size_t busy = sessions; busy != 0;) {
            set.receive([&](short_session& s) {
                s.disconnect();
                s.close();
                const auto current = phase_.load(std::memory_order_relaxed);
                if (current == phase::measure)
                    count(counted, session_set::now() - s.opened());
                if (current != phase::stop)
                    set.open(s);
                else
                    --busy;
            });
        }
        const std::lock_guard lock{mutex_};
        sum_.latencies += counted.latencies;
        sum_.bytes += counted.bytes;
    } catch (...) {
        const std::lock_guard lock{mutex_};
        if (!failure_)
            failure_ = std::current_exception();
        phase_ = phase::stop;
        changed_.notify_one();
    }
    void count(tally& to, std::uint64_t latency)
    {
        const auto before = count_.fetch_add(1, std::memory_order_relaxed);
        if (before >= limit_)
            return;
        to.latencies.add(latency);
        to.bytes += plan_.block;
        if (before + 1 == limit_) {
            const std::lock_guard lock{mutex_};
            done_ = true;
            changed_.notify_one();
        }
    }

    const export_address& to_;
    load_plan plan_;
    std::size_t loops_;
    std::size_t threads_;
    std::uint64_t limit_ = load_client::unlimited;
    std::atomic<std::uint64_t> count_{0};
    std::atomic<phase> phase_{phase::warm_up};

    std::mutex mutex_;  // of what follows
    std::condition_variable changed_;
    bool done_ = false;
    std::exception_ptr failure_;
    tally sum_;
};

/// Measures connections that exist together. A round opens all, one after another and as fast as
/// possible, waits until each has read once, and closes all. The seconds of the result are those
/// until all have read, of all rounds; the processor time includes the closing. A latency is from
/// before the connection to its reply.
[[nodiscard]] inline load_result run_at_once(const export_address& to, const load_plan& plan,
                                             std::size_t connections, const load_length& length,
                                             const process_tree* server)
{
    session_set set{to, plan, connections, 1};
    load_result result;
    const auto round = [&] {
        const auto begin = session_set::now();
        for (auto& s : set.all())
            set.open(s);
        for (auto left = connections; left != 0;) {
            set.receive([&](short_session& s) {
                result.sum.latencies.add(session_set::now() - s.opened());
                result.sum.bytes += plan.block;
                --left;
            });
        }
        result.seconds += static_cast<double>(session_set::now() - begin) / 1e9;
        for (auto& s : set.all())
            s.disconnect();
        for (auto& s : set.all()) {
            s.wait_for_end();
            s.close();
        }
    };
    const auto elapsed = [begin = session_set::now()] {
        return std::chrono::duration<double>{static_cast<double>(session_set::now() - begin) / 1e9};
    };
    while (elapsed() < length.warm_up)
        round();
    result = {};
    const auto client_before = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    const auto server_before = server != nullptr ? server->seconds() : 0;
    const auto end = elapsed() + length.measured;
    do
        round();
    while (length.requests != load_client::unlimited
               ? result.sum.latencies.count() < length.requests
               : elapsed() < end);
    if (server != nullptr)
        result.server_seconds = server->seconds() - server_before;
    result.client_seconds = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - client_before;
    return result;
}

}  // namespace bench
