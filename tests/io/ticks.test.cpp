// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/io/ticks.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

using executor = boost::asio::io_context::executor_type;

TEST_CASE("io/ticks: a tick for each that was wanted, and none when it has ended")
{
    boost::asio::io_context context;
    nbd::io::gate<executor> gate;
    nbd::io::ticks<executor> tick{context.get_executor(), gate};
    int opened = 0;
    bool over = false;
    boost::asio::co_spawn(
        context,
        [&]() -> boost::asio::awaitable<void, executor> {
            for (int i = 0; i < 2; ++i) {
                tick.want();
                tick.want();  // is on its way
                co_await gate.wait();
                ++opened;
            }
            CHECK(tick.end());
            tick.want();
            while (!tick.end()) {
                co_await gate.wait();
                ++opened;
            }
            over = true;
        },
        boost::asio::detached);
    context.run();  // out of work: nothing of it is left
    CHECK(opened == 3);
    CHECK(over);
}
