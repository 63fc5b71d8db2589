// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/io/busy_poll.hpp>

#include <algorithm>
#include <memory>
#include <thread>
#include <tuple>
#include <vector>

using nbd::io::busy_poll;
using namespace std::chrono_literals;

namespace {
constexpr auto alone = [] { return false; };  // no other thread needs the processor
}

TEST_CASE("io/busy_poll: polling pays until waits turn out to be long")
{
    busy_poll poll{50us};
    CHECK(poll.enabled());
    CHECK(poll.pays());
    for (const auto wait : {0us, 1us, 50us, 199us, 200us}) {
        poll.waited(wait);
        CHECK(poll.pays());
    }
}

TEST_CASE("io/busy_poll: one long wait ends polling, so an idle client costs nothing")
{
    busy_poll poll{50us};
    poll.waited(200us + 1ns);
    CHECK_FALSE(poll.pays());
    CHECK(poll.enabled());
    poll.waited(10min);
    CHECK_FALSE(poll.pays());
}

TEST_CASE("io/busy_poll: several short waits in a row start polling again")
{
    busy_poll poll{50us};
    poll.waited(1s);
    poll.waited(10us);
    CHECK_FALSE(poll.pays());
    poll.waited(200us);
    CHECK_FALSE(poll.pays());
    // A long wait in between resets the count.
    poll.waited(1s);
    int wanted = 0;
    for (; !poll.pays(); ++wanted) {
        REQUIRE(wanted < 100);
        poll.waited(10us);
    }
    CHECK(wanted == 3);
    // More short waits give no credit: the next long wait ends polling again.
    for (int i = 0; i < 1000; ++i)
        poll.waited(10us);
    poll.waited(1s);
    CHECK_FALSE(poll.pays());
}

TEST_CASE(
    "io/busy_poll: no polling after a large send; poll(2) comes before recv(2) after a medium one")
{
    constexpr std::size_t kib = 1024;
    busy_poll poll{50us};
    CHECK_FALSE(poll.asks_first());
    poll.sent(32 * kib);
    CHECK(poll.pays());
    CHECK_FALSE(poll.asks_first());
    poll.sent(32 * kib + 1);
    CHECK(poll.pays());
    CHECK(poll.asks_first());
    poll.sent(96 * kib);
    CHECK(poll.pays());
    poll.sent(96 * kib + 1);
    CHECK_FALSE(poll.pays());
    poll.sent(0);
    CHECK(poll.pays());
    CHECK_FALSE(poll.asks_first());
}

TEST_CASE("io/busy_poll: look() polls until it succeeds or its budget is used")
{
    busy_poll poll{1h};
    int asked = 0;
    CHECK(poll.look([&] { return ++asked == 5; }, alone));
    CHECK(asked == 5);
    busy_poll brief{1ns};
    asked = 0;
    CHECK_FALSE(brief.look([&] { return ++asked == 5; }));
    CHECK(asked == 1);
}

TEST_CASE("io/busy_poll: polls in vain become rare, until one succeeds")
{
    busy_poll poll{1ns};
    const auto waits_until_it_pays = [&] {
        int waits = 0;
        for (; !poll.pays(); ++waits)
            poll.waited(0ns);
        return waits;
    };
    const auto look = [&](bool succeeds) {
        std::ignore = poll.look([&] { return succeeds; });
        return waits_until_it_pays();
    };
    for (const int waits : {1, 2, 4, 8, 16, 32, 64, 64, 64})
        CHECK(look(false) == waits);
    CHECK(look(true) == 0);
    CHECK(look(false) == 1);
}

TEST_CASE("io/busy_poll: it gives up when another thread needs the processor, and polls less often")
{
    busy_poll poll{1h};
    int asked = 0;
    int yields = 0;
    CHECK_FALSE(poll.look([&] { return ++asked == 10; }, [&] { return ++yields == 3; }));
    CHECK(yields == 3);
    CHECK(asked == 4);  // once more after that thread, which may be the client
    CHECK_FALSE(poll.pays());
    // If that finds something, the next polls are rare all the same.
    poll.waited(0ns);
    CHECK(poll.pays());
    asked = 0;
    CHECK(poll.look([&] { return ++asked == 2; }, [] { return true; }));
    CHECK_FALSE(poll.pays());
}

TEST_CASE("io/busy_poll: it gives up while too many threads are awake")
{
    using nbd::io::awake_threads;
    const auto most = std::max(1U, std::thread::hardware_concurrency() / 2);
    CHECK(awake_threads::leave_room());
    {
        std::vector<std::unique_ptr<busy_poll>> awake;
        for (unsigned i = 0; i <= most; ++i) {
            CHECK(awake_threads::leave_room());
            awake.push_back(std::make_unique<busy_poll>(1h));
            CHECK(awake.back()->while_asleep([] { return true; }));
        }
        CHECK_FALSE(awake_threads::leave_room());
        int asked = 0;
        CHECK_FALSE(awake[0]->look([&] { return ++asked == 3; }, alone));
        CHECK(asked == 1);
        CHECK(awake[1]->while_asleep([] { return awake_threads::leave_room(); }));
        CHECK_FALSE(awake_threads::leave_room());
    }
    CHECK(awake_threads::leave_room());
}

TEST_CASE("io/busy_poll: a budget of 0 disables polling")
{
    busy_poll poll{0us};
    CHECK_FALSE(poll.enabled());
    CHECK_FALSE(poll.pays());
    for (int i = 0; i < 10; ++i)
        poll.waited(0ns);
    CHECK_FALSE(poll.pays());
    CHECK_FALSE(busy_poll{-1us}.enabled());
}
