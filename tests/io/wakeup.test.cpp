// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/io/wakeup.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <thread>

namespace {
using executor = boost::asio::io_context::executor_type;

struct stream {
    executor get_executor() { return context.get_executor(); }
    boost::asio::io_context context{1};
};
}  // namespace

TEST_CASE("io/wakeup: a thread waits until it is notified, also if that happened before")
{
    stream none;
    nbd::io::thread_wakeup w{none};
    w.notify();
    std::ignore = w.wait();
    std::thread other{[&w] { w.notify(); }};
    std::ignore = w.wait();
    other.join();
}

TEST_CASE("io/wakeup: a coroutine waits until another thread notifies it")
{
    stream s;
    nbd::io::strand_wakeup<executor> w{s};
    int woken = 0;
    std::thread other;
    boost::asio::co_spawn(
        s.context,
        [&]() -> boost::asio::awaitable<void, executor> {
            for (int i = 0; i < 3; ++i) {
                w.notify();  // posted, so it runs during the wait
                co_await w.wait();
                ++woken;
            }
            other = std::thread{[&w] { w.notify(); }};
            co_await w.wait();
            ++woken;
        },
        boost::asio::detached);
    s.context.run();
    other.join();
    CHECK(woken == 4);
}
