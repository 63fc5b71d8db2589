// SPDX-License-Identifier: MIT
#pragma once

#include "load_client.hpp"
#include "processor_time.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <exception>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

namespace bench {

/// The length of a load: a time, or a number of requests on each connection.
struct load_length {
    std::chrono::duration<double> warm_up{0};
    std::chrono::duration<double> measured{0};
    std::uint64_t requests = load_client::unlimited;  ///< of each connection
    bool verify = false;  ///< WRITE every block before, and READ every block afterwards
};

/// The results of a load.
struct load_result {
    tally sum;
    double seconds = 0;
    double client_seconds = 0;             ///< processor time of this process
    std::optional<double> server_seconds;  ///< processor time of the server
};

/// Runs the load of several connections on several threads.
class load_run {
public:
    /// `clients` must outlive this object. They are divided among at most `threads` threads. A
    /// thread with one connection blocks in its calls; a thread with several polls them.
    load_run(std::span<load_client> clients, std::size_t threads, const load_length& length)
        : clients_{clients}, threads_{std::min(threads, clients.size())}, length_{length}
    {
    }

    /// Runs it once. `server` may be null. Errors: the first one of any connection, and those of
    /// reading the server's clock.
    [[nodiscard]] load_result run(const process_tree* server)
    {
        std::vector<std::thread> running;
        const auto end = [&running, this] {
            phase_ = phase::stop;
            for (auto& thread : running)
                thread.join();
            running.clear();
        };
        load_result result;
        try {
            for (std::size_t i = 0; i < threads_; ++i) {
                const auto from = clients_.size() * i / threads_;
                const auto to = clients_.size() * (i + 1) / threads_;
                running.emplace_back(&load_run::work, this, clients_.subspan(from, to - from));
            }
            wait_until_all_are(ready_);
            wait(length_.warm_up);

            const auto client_before = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
            const auto server_before = server != nullptr ? server->seconds() : 0;
            const auto begin = std::chrono::steady_clock::now();
            phase_ = phase::measure;
            if (length_.requests != load_client::unlimited)
                wait_until_all_are(loaded_);
            else
                wait(length_.measured);
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
    using task = load_client::task;

    [[nodiscard]] static std::uint64_t now() noexcept
    {
        return static_cast<std::uint64_t>(
            std::chrono::nanoseconds{std::chrono::steady_clock::now().time_since_epoch()}.count());
    }

    // --- The thread that measures ---

    void wait(std::chrono::duration<double> time)
    {
        std::unique_lock lock{mutex_};
        changed_.wait_for(lock, time, [this] { return failure_ != nullptr; });
        if (failure_)
            std::rethrow_exception(failure_);
    }
    void wait_until_all_are(const std::size_t& there)
    {
        std::unique_lock lock{mutex_};
        changed_.wait(lock, [&] { return failure_ != nullptr || there == threads_; });
        if (failure_)
            std::rethrow_exception(failure_);
    }

    // --- The threads that load ---

    void report(std::size_t& there)
    {
        const std::lock_guard lock{mutex_};
        ++there;
        changed_.notify_one();
    }

    void work(std::span<load_client> mine) noexcept
    try {
        if (length_.verify)
            pass(mine, task::fill);
        report(ready_);
        tally counted;
        begin(mine, task::load, load_client::unlimited);
        drive(mine, [&, this](std::uint64_t time, tally*& to) {
            const auto current = phase_.load(std::memory_order_relaxed);
            if (current == phase::measure && to == nullptr) {
                to = &counted;
                if (length_.requests != load_client::unlimited) {
                    counted.since = time;
                    begin(mine, task::load, length_.requests);
                }
            }
            if (current == phase::stop)
                to = nullptr;
            return current != phase::stop;
        });
        report(loaded_);
        if (length_.verify)
            pass(mine, task::read_back);
        for (auto& client : mine)
            client.disconnect();
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

    /// Processes every block of every client once.
    static void pass(std::span<load_client> mine, task t)
    {
        for (auto& client : mine)
            client.begin(t, client.blocks());
        drive(mine, [](std::uint64_t, tally*&) { return true; });
    }
    static void begin(std::span<load_client> mine, task t, std::uint64_t requests)
    {
        for (auto& client : mine)
            client.begin(t, requests);
    }

    /// Runs the clients until no request is in flight. `more(now, to)` returns whether new requests
    /// may be sent, and may change the counter of the old ones.
    template <class More>
    static void drive(std::span<load_client> mine, More more)
    {
        if (mine.size() == 1)
            drive_one(mine.front(), more);
        else
            drive_many(mine, more);
    }

    template <class More>
    static void drive_one(load_client& client, More& more)
    {
        tally* to = nullptr;
        auto time = now();
        client.refill(time);
        while (client.in_flight() != 0) {
            if (client.send_queued()) {
                client.receive(patience::waits);
            } else {
                // The server may not read before its replies are received.
                ::pollfd either{
                    .fd = client.native_handle(), .events = POLLIN | POLLOUT, .revents = 0};
                check_ready(::poll(&either, 1, longest_wait));
                if ((either.revents & ~POLLOUT) != 0)
                    client.receive(patience::at_once);
            }
            time = now();
            const bool going_on = more(time, to);
            client.take_replies(time, to);
            if (going_on)
                client.refill(time);
        }
    }

    template <class More>
    static void drive_many(std::span<load_client> mine, More& more)
    {
        ready_set ready{mine};
        tally* to = nullptr;
        auto time = now();
        std::size_t busy = 0;
        const auto send = [&](std::size_t i) {
            ready.want_to_send(i, !mine[i].send_queued());
            return mine[i].in_flight() != 0;
        };
        for (std::size_t i = 0; i < mine.size(); ++i) {
            mine[i].refill(time);
            busy += send(i);
        }
        while (busy != 0) {
            const auto events = ready.wait();
            time = now();
            const bool going_on = more(time, to);
            for (const auto& event : events) {
                auto& client = mine[static_cast<std::size_t>(event.data.u64)];
                if ((event.events & ~EPOLLOUT) != 0) {
                    client.receive(patience::at_once);
                    client.take_replies(time, to);
                }
                if (going_on)
                    client.refill(time);
                busy -= !send(static_cast<std::size_t>(event.data.u64));
            }
        }
    }

    static constexpr int longest_wait = 20'000;  // ms

    static void check_ready(int result)
    {
        if (result < 0 && errno != EINTR)
            throw std::system_error{errno, std::system_category(), "poll"};
        if (result == 0)
            throw std::runtime_error{"the server has neither sent nor received for 20 s"};
    }

    /// Waits until some clients can receive, or send if they have something to send.
    class ready_set {
    public:
        explicit ready_set(std::span<load_client> clients)
            : clients_{clients}, wants_(clients.size()), fd_{::epoll_create1(EPOLL_CLOEXEC)}
        {
            for (std::size_t i = 0; i < clients.size(); ++i)
                control(EPOLL_CTL_ADD, i);
        }
        ready_set(const ready_set&) = delete;
        ready_set& operator=(const ready_set&) = delete;
        ~ready_set() { ::close(fd_); }

        void want_to_send(std::size_t i, bool wanted)
        {
            if (wants_[i] == wanted)
                return;
            wants_[i] = wanted;
            control(EPOLL_CTL_MOD, i);
        }
        [[nodiscard]] std::span<const ::epoll_event> wait()
        {
            const int n =
                ::epoll_wait(fd_, events_.data(), static_cast<int>(events_.size()), longest_wait);
            check_ready(n);
            return std::span{events_}.first(static_cast<std::size_t>(std::max(n, 0)));
        }

    private:
        void control(int operation, std::size_t i)
        {
            ::epoll_event event{};
            event.events = EPOLLIN | (wants_[i] ? EPOLLOUT : 0U);
            event.data.u64 = i;
            if (::epoll_ctl(fd_, operation, clients_[i].native_handle(), &event) != 0)
                throw std::system_error{errno, std::system_category(), "epoll_ctl"};
        }

        std::span<load_client> clients_;
        std::vector<bool> wants_;
        int fd_;
        std::array<::epoll_event, 64> events_{};
    };

    std::span<load_client> clients_;
    std::size_t threads_;
    load_length length_;
    std::atomic<phase> phase_{phase::warm_up};

    std::mutex mutex_;  // of what follows
    std::condition_variable changed_;
    std::size_t ready_ = 0;   // threads that have filled their disks
    std::size_t loaded_ = 0;  // threads whose measured requests are answered
    std::exception_ptr failure_;
    tally sum_;
};

}  // namespace bench
