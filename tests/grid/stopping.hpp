// SPDX-License-Identifier: MIT
// Backends and an observer for grid/stop_matrix.test.cpp.
#pragma once

#include "grid/client.hpp"
#include <nbd/on.hpp>
#include <nbd/server.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace grid::stopping {

namespace asio = boost::asio;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

/// A call of the backend.
enum class call {
    answers,
    waits,
    waits_for_cancellation,
    ignores_cancellation,
    disables_cancellation,
    throws,
    completes_elsewhere,
    leaves_a_timer,
    blocks,
};
constexpr std::array call_names{"answers",
                                "waits",
                                "until cancelled",
                                "ignores cancellation",
                                "disables cancellation",
                                "throws",
                                "elsewhere",
                                "leaves a timer",
                                "blocks"};
enum class client { idle, in_handshake, busy, disc_and_close, reset, half_closed, reads_nothing };
constexpr std::array client_names{"idle",  "in the handshake", "64 in flight", "DISC and close",
                                  "reset", "half-closed",      "reads nothing"};
enum class end {
    stop,
    destructor,
    stop_in_a_callback,
    stopped_context,       ///< a context of the program
    async_stop_elsewhere,  ///< by a call on a thread of the backend, which must not wait
};
constexpr std::array end_names{"stop", "destructor", "stop in a callback", "context stopped",
                               "async_stop elsewhere"};

constexpr milliseconds grace{100};

/// What a test shares with its backend and observer.
struct situation {
    call what;
    std::atomic<int> begun{0};  ///< calls
    std::atomic<int> connected{0};
    std::atomic<int> departed{0};
    std::atomic<bool> stops_at_connect{false};
    std::atomic<bool> stops_elsewhere{false};
    std::function<void()> stop{};
    asio::thread_pool elsewhere{1};
};

class awaited_disk {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool cancellable = true;
    using executor = asio::io_context::executor_type;
    template <class Executor>
    using task = asio::awaitable<void, Executor>;

    explicit awaited_disk(situation& s) : s_{&s} {}
    [[nodiscard]] std::uint64_t size() const { return 64 << 20; }
    task<executor> read(std::uint64_t, std::span<std::byte>)
    {
        const auto until = steady_clock::now() + 2 * grace;
        ++s_->begun;
        switch (s_->what) {
        case call::waits:
            co_await pause(grace / 4);
            break;
        case call::waits_for_cancellation:
            co_await pause(std::chrono::hours{1});
            break;
        case call::ignores_cancellation:
            co_await asio::this_coro::throw_if_cancelled(false);
            while (steady_clock::now() < until) {
                try {
                    co_await pause(until - steady_clock::now());
                } catch (const boost::system::system_error&) {  // cancelled
                }
            }
            break;
        case call::disables_cancellation:
            co_await asio::this_coro::reset_cancellation_state(asio::disable_cancellation());
            co_await pause(2 * grace);
            break;
        case call::throws:
            throw std::runtime_error{"read throws"};
        case call::completes_elsewhere:
            co_await nbd::on<executor>(s_->elsewhere.get_executor(), away(*s_));
            break;
        case call::leaves_a_timer:
            asio::co_spawn(co_await asio::this_coro::executor, pause(std::chrono::hours{1}),
                           asio::detached);
            break;
        default:
            break;
        }
    }

private:
    static task<executor> pause(steady_clock::duration time)
    {
        asio::basic_waitable_timer<steady_clock, asio::wait_traits<steady_clock>, executor> timer{
            co_await asio::this_coro::executor, time};
        co_await timer.async_wait(asio::use_awaitable_t<executor>{});
    }
    static task<asio::thread_pool::executor_type> away(situation& s)
    {
        if (s.stops_elsewhere.exchange(false))
            s.stop();
        co_return;
    }

    situation* s_;
};

class immediate_disk {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool blocks = true;

    explicit immediate_disk(situation& s) : s_{&s} {}
    [[nodiscard]] std::uint64_t size() const { return 64 << 20; }
    void read(std::uint64_t, std::span<std::byte>)
    {
        ++s_->begun;
        if (s_->what == call::blocks)
            std::this_thread::sleep_for(grace / 4);
        else if (s_->what == call::throws)
            throw std::runtime_error{"read throws"};
    }

private:
    situation* s_;
};

struct watcher {
    situation* s = nullptr;
    void at_connect(const nbd::client&)
    {
        ++s->connected;
        if (s->stops_at_connect.exchange(false))
            s->stop();
    }
    void at_disconnect(const nbd::client&, std::error_code) { ++s->departed; }
};

}  // namespace grid::stopping
