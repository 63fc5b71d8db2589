// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/io/run_awake.hpp>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include <atomic>
#include <stdexcept>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using nbd::io::run_awake;
namespace asio = boost::asio;

TEST_CASE("io/run_awake: runs what there is, in order, and returns when it is out of work")
{
    const auto budget = GENERATE(0us, 50us, 1'000'000us);
    asio::io_context context{1};
    std::vector<int> ran;
    asio::steady_timer alarm{context, 20ms};
    alarm.async_wait([&](auto) { ran.push_back(3); });
    asio::post(context, [&] {
        ran.push_back(1);
        asio::post(context, [&] { ran.push_back(2); });
    });
    run_awake(context, budget);
    CHECK(ran == std::vector{1, 2, 3});
    CHECK(context.stopped());
}

TEST_CASE("io/run_awake: hears of what others bring, whether it looks or sleeps")
{
    const auto budget = GENERATE(0us, 50us, 1'000'000us);
    asio::io_context context{1};
    auto guard = asio::make_work_guard(context);
    std::thread runner{[&] { run_awake(context, budget); }};
    int ran = 0;  // of the runner alone
    std::atomic<int> seen{0};
    for (int i = 1; i <= 1000; ++i) {
        asio::post(context, [&] {
            seen = ++ran;
            seen.notify_all();
        });
        if (i % 10 == 0)  // it has nothing to do then, and what comes next finds it so
            for (int now = seen; now != i; now = seen)
                seen.wait(now);
    }
    guard.reset();
    runner.join();
    CHECK(seen == 1000);
}

TEST_CASE("io/run_awake: stop() ends it, and what a handler throws comes out, as with run()")
{
    const auto budget = GENERATE(0us, 50us, 1'000'000us);
    asio::io_context context{1};
    const auto guard = asio::make_work_guard(context);
    int ran = 0;
    asio::post(context, [] { throw std::runtime_error{"x"}; });
    asio::post(context, [&] {
        ++ran;
        context.stop();
    });
    asio::post(context, [&] { ++ran; });
    CHECK_THROWS_WITH(run_awake(context, budget), "x");
    run_awake(context, budget);
    CHECK(ran == 1);
    run_awake(context, budget);  // until it is restarted
    CHECK(ran == 1);
}
