// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/exports/async_lock.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_future.hpp>

#include <atomic>
#include <future>
#include <optional>
#include <vector>

using nbd::exports::async_lock;
using nbd::exports::async_mutex;

namespace {

template <class Executor>
boost::asio::awaitable<void, Executor> add(async_mutex& m, std::vector<int>& order, int n)
{
    const auto held = co_await nbd::exports::lock<Executor>(m);
    order.push_back(n);
}

}  // namespace

TEMPLATE_TEST_CASE("exports/async_lock: waiters get the lock in order, on their executor", "",
                   boost::asio::io_context::executor_type, boost::asio::any_io_executor)
{
    boost::asio::io_context io;
    async_mutex m;
    std::vector<int> order;
    async_mutex::waiter first;
    REQUIRE(m.lock(first));
    std::optional<async_lock> held{async_lock{m}};
    for (int n = 1; n <= 3; ++n)
        boost::asio::co_spawn(TestType{io.get_executor()}, add<TestType>(m, order, n),
                              boost::asio::detached);
    io.poll();
    CHECK(order.empty());
    held.reset();
    CHECK(order.empty());
    io.run();
    CHECK(order == std::vector<int>{1, 2, 3});
    CHECK(m.lock(first));
}

TEST_CASE("exports/async_lock: with many threads, one holds the lock at a time")
{
    using executor = boost::asio::thread_pool::executor_type;
    constexpr int coroutines = 8, turns = 500;
    boost::asio::thread_pool pool{4};
    async_mutex m;
    int inside = 0, total = 0;
    std::atomic<bool> alone{true};
    std::vector<std::future<void>> all;
    for (int i = 0; i < coroutines; ++i)
        all.push_back(boost::asio::co_spawn(
            pool.get_executor(),
            [&]() -> boost::asio::awaitable<void, executor> {
                for (int t = 0; t < turns; ++t) {
                    const auto held = co_await nbd::exports::lock<executor>(m);
                    if (++inside != 1)
                        alone = false;
                    ++total;
                    --inside;
                }
            },
            boost::asio::use_future));
    for (auto& f : all)
        f.get();
    CHECK(alone);
    CHECK(total == coroutines * turns);
}
