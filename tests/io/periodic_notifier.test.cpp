// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/io/periodic_notifier.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

using executor = boost::asio::io_context::executor_type;

TEST_CASE("io/periodic_notifier: a tick for each that was wanted, and none when it has ended")
{
    boost::asio::io_context context;
    nbd::io::async_event<executor> event;
    nbd::io::periodic_notifier<executor> tick{context.get_executor(), event};
    int opened = 0;
    bool over = false;
    boost::asio::co_spawn(
        context,
        [&]() -> boost::asio::awaitable<void, executor> {
            for (int i = 0; i < 2; ++i) {
                tick.arm();
                tick.arm();  // is on its way
                co_await event.wait();
                ++opened;
            }
            CHECK(tick.stop());
            tick.arm();
            while (!tick.stop()) {
                co_await event.wait();
                ++opened;
            }
            over = true;
        },
        boost::asio::detached);
    context.run();  // out of work: nothing of it is left
    CHECK(opened == 3);
    CHECK(over);
}
