// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/on.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <chrono>
#include <exception>
#include <optional>
#include <stdexcept>
#include <thread>

namespace {

namespace asio = boost::asio;
using executor = asio::io_context::executor_type;
template <class T>
using task = asio::awaitable<T, executor>;

/// A context with a thread.
struct elsewhere {
    elsewhere() : thread{[this] { context.run(); }} {}
    ~elsewhere()
    {
        guard.reset();
        thread.join();
    }
    asio::io_context context;
    asio::executor_work_guard<executor> guard{context.get_executor()};
    std::thread thread;
};

/// Runs a task on this thread. The context ends with it, as that of a client of per_client_threads
/// does.
template <class T>
T run(task<T> started)
{
    asio::io_context home{1};
    std::optional<T> result;
    std::exception_ptr thrown;
    asio::co_spawn(home, std::move(started), [&](std::exception_ptr e, T value) {
        thrown = e;
        if (!e)
            result = std::move(value);
    });
    home.run();
    if (thrown)
        std::rethrow_exception(thrown);
    REQUIRE(result);
    return *result;
}

template <class Executor>
asio::awaitable<std::thread::id, Executor> where()
{
    co_return std::this_thread::get_id();
}

}  // namespace

TEST_CASE("on: the task runs on the other executor, and its awaiter resumes on its own")
{
    elsewhere there;
    const auto both = run([](elsewhere& e) -> task<bool> {
        const auto home = std::this_thread::get_id();
        for (int i = 0; i < 100; ++i) {
            if (co_await nbd::on(e.context.get_executor(), where<executor>()) != e.thread.get_id())
                co_return false;
            if (std::this_thread::get_id() != home)
                co_return false;
        }
        co_return true;
    }(there));
    CHECK(both);
}

TEST_CASE("on: a context in place of its executor")
{
    elsewhere there;
    CHECK(run([](elsewhere& e) -> task<std::thread::id> {
              co_return co_await nbd::on(e.context, where<executor>());
          }(there))
          == there.thread.get_id());
}

TEST_CASE("on: executors of other types")
{
    elsewhere there;
    using any = asio::any_io_executor;
    using strand = asio::strand<executor>;
    CHECK(run([](elsewhere& e) -> task<std::thread::id> {
              co_return co_await nbd::on<executor>(any{e.context.get_executor()}, where<any>());
          }(there))
          == there.thread.get_id());
    CHECK(run([](elsewhere& e) -> task<std::thread::id> {
              co_return co_await nbd::on<executor>(asio::make_strand(e.context), where<strand>());
          }(there))
          == there.thread.get_id());
    CHECK(run([](elsewhere& e) -> task<std::thread::id> {
              co_return co_await nbd::on<executor>(e.context.get_executor(), where<any>());
          }(there))
          == there.thread.get_id());
}

TEST_CASE("on: an exception reaches the awaiter, on its own executor")
{
    elsewhere there;
    const auto fails = []() -> task<int> {
        throw std::runtime_error{"fetch failed"};
        co_return 0;
    };
    CHECK(run([](elsewhere& e, auto f) -> task<bool> {
        const auto home = std::this_thread::get_id();
        try {
            std::ignore = co_await nbd::on(e.context.get_executor(), f());
        } catch (const std::runtime_error&) {
            co_return std::this_thread::get_id() == home;
        }
        co_return false;
    }(there, fails)));
}

TEST_CASE("on: a task without a result")
{
    elsewhere there;
    bool done = false;
    const auto sets = [](bool& to) -> task<void> {
        to = true;
        co_return;
    };
    CHECK(run([](elsewhere& e, auto f, bool& to) -> task<bool> {
        co_await nbd::on(e.context.get_executor(), f(to));
        co_return to;
    }(there, sets, done)));
}

TEST_CASE("on: the awaiter's cancellation does not reach the task")
{
    elsewhere there;
    asio::io_context home{1};
    asio::cancellation_signal cancel;
    asio::basic_waitable_timer<std::chrono::steady_clock,
                               asio::wait_traits<std::chrono::steady_clock>, executor>
        timer{there.context};
    timer.expires_at(std::chrono::steady_clock::time_point::max());
    bool ran_to_its_end = false;
    // Cancels its awaiter, then waits for an operation that is not cancelled.
    const auto waits = [&]() -> task<void> {
        asio::post(home, [&] {
            cancel.emit(asio::cancellation_type::terminal);
            asio::post(there.context, [&] { timer.cancel(); });
        });
        try {
            co_await timer.async_wait(asio::use_awaitable_t<executor>{});
        } catch (const boost::system::system_error&) {
        }
        ran_to_its_end = (co_await asio::this_coro::cancellation_state).cancelled()
            == asio::cancellation_type::none;
    };
    bool was_cancelled = false;
    asio::co_spawn(
        home,
        [&]() -> task<void> {
            co_await nbd::on(there.context.get_executor(), waits());
            was_cancelled = (co_await asio::this_coro::cancellation_state).cancelled()
                != asio::cancellation_type::none;
        },
        asio::bind_cancellation_slot(cancel.slot(), [](const std::exception_ptr&) {}));
    home.run();
    CHECK(ran_to_its_end);
    CHECK(was_cancelled);
}
