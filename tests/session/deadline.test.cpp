// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/session/deadline.hpp>

using nbd::errc;
using nbd::session::deadline;
using nbd::session::ticker;
using namespace std::chrono_literals;

// Rounded up, and one more, because the present tick may be almost over.
static_assert(ticker::tick == 250ms);
static_assert(ticker::ticks(0ms) == 1 && ticker::ticks(1ms) == 2);
static_assert(ticker::ticks(250ms) == 2 && ticker::ticks(251ms) == 3);
static_assert(ticker::ticks(-1ms) == 1 && ticker::ticks(std::chrono::milliseconds::min()) == 1);
static_assert(ticker::ticks(10s) == 41 && ticker::ticks(24h) == 24 * 3600 * 4 + 1);

// No setting overflows when milliseconds are converted to ticks.
constexpr auto longest = std::chrono::milliseconds::max();
static_assert(ticker::ticks(longest) == std::uint64_t(longest.count() - 1) / 250 + 2);

TEST_CASE("session/deadline: the longest time limit does not overflow")
{
    ticker clock;
    clock.advance_to(1'000'000'000'000);
    deadline d{clock};
    d.arm(longest, errc::send_timeout);
    CHECK_FALSE(d.overdue());
    clock.advance_to(2'000'000'000'000);
    CHECK_FALSE(d.overdue());
}

TEST_CASE("session/deadline: a transfer gets time for the bytes that it has moved, but no credit")
{
    ticker clock;
    clock.advance_to(100);
    deadline d{clock};
    CHECK(d.since() == deadline::never);
    CHECK(d.silent_since() == deadline::never);
    d.begin_transfer();
    const auto arm = [&d] { d.arm_transfer(60s, 1000, errc::progress_timeout); };
    constexpr std::uint64_t patience = ticker::ticks(60s);
    arm();
    CHECK(d.since() == 100);
    SECTION("single bytes are no progress")
    {
        for (std::uint64_t now = 101; now < 100 + patience; ++now) {
            clock.advance_to(now);
            d.moved(1);
            arm();
            CHECK_FALSE(d.overdue());
            CHECK(d.since() <= 101);
            CHECK(d.silent_since() == now);
        }
        clock.advance_to(101 + patience);
        d.moved(1);
        arm();
        CHECK(d.overdue());
    }
    SECTION("a transfer at the minimum rate is never overdue")
    {
        for (std::uint64_t now = 140; now < 100'000; now += 40) {
            clock.advance_to(now);
            d.moved(10'000);
            arm();
            CHECK(d.since() == now);
            CHECK_FALSE(d.overdue());
        }
    }
    SECTION("many bytes at once do not allow a long pause")
    {
        d.moved(std::uint64_t{1} << 40);
        clock.advance_to(110);
        arm();
        CHECK(d.since() == 110);
        clock.advance_to(110 + patience - 1);
        CHECK_FALSE(d.overdue());
        clock.advance_to(110 + patience);
        CHECK(d.overdue());
    }
    SECTION("a transfer that was fast may be slow for a while")
    {
        d.moved(100'000);  // 100 seconds' worth
        clock.advance_to(100 + 4 * 100);
        d.moved(1);
        arm();
        CHECK(d.since() == 100 + 4 * 100);
    }
    SECTION("each message starts again")
    {
        clock.advance_to(300);
        d.begin_transfer();
        arm();
        CHECK(d.since() == 300);
    }
    SECTION("without a rate it is like any other wait")
    {
        clock.advance_to(300);
        d.arm_transfer(60s, 0, errc::progress_timeout);
        CHECK(d.since() == 300);
    }
    SECTION("without a time limit it is not overdue, but the stall is measured")
    {
        clock.advance_to(100'000);
        d.arm_transfer(0s, 1000, errc::progress_timeout);
        CHECK_FALSE(d.overdue());
        CHECK(d.since() == 100);
        CHECK(d.silent_since() == 100'000);
    }
    d.disarm();
    CHECK(d.since() == deadline::never);
    CHECK(d.silent_since() == deadline::never);
}

TEST_CASE("session/deadline: without arm() it is never overdue")
{
    ticker clock;
    deadline d{clock};
    CHECK_FALSE(d.overdue());
    clock.advance_to(1'000'000'000);
    CHECK_FALSE(d.overdue());
}

TEST_CASE("session/deadline: it is overdue after its time limit and not before")
{
    ticker clock;
    clock.advance_to(1000);
    deadline d{clock};
    d.arm(10s, errc::handshake_timeout);
    CHECK(d.reason() == errc::handshake_timeout);
    clock.advance_to(1040);
    CHECK_FALSE(d.overdue());
    clock.advance_to(1041);
    CHECK(d.overdue());
    clock.advance_to(5000);
    CHECK(d.overdue());
}

TEST_CASE("session/deadline: a second arm() restarts it with the new reason")
{
    ticker clock;
    deadline d{clock};
    d.arm(1s, errc::progress_timeout);
    clock.advance_to(4);
    d.arm(1s, errc::send_timeout);
    clock.advance_to(8);
    CHECK_FALSE(d.overdue());
    clock.advance_to(9);
    CHECK(d.overdue());
    CHECK(d.reason() == errc::send_timeout);
}

TEST_CASE("session/deadline: disarmed, or armed with no limit, it is never overdue")
{
    ticker clock;
    deadline d{clock};
    d.arm(1ms, errc::send_timeout);
    d.disarm();
    clock.advance_to(100);
    CHECK_FALSE(d.overdue());
    d.arm(1ms, errc::send_timeout);
    d.arm(0ms, errc::idle_timeout);
    clock.advance_to(200);
    CHECK_FALSE(d.overdue());
    d.arm(-5ms, errc::idle_timeout);
    clock.advance_to(300);
    CHECK_FALSE(d.overdue());
}

TEST_CASE("session/deadline: time in which the client cannot act is added")
{
    ticker clock;
    deadline d{clock};
    d.postpone_since(0);
    CHECK_FALSE(d.overdue());
    d.arm(1s, errc::handshake_timeout);  // 5 ticks
    clock.advance_to(2);
    const auto begun = d.now();
    clock.advance_to(1000);
    CHECK(d.overdue());
    d.postpone_since(begun);
    clock.advance_to(1002);
    CHECK_FALSE(d.overdue());
    clock.advance_to(1003);
    CHECK(d.overdue());
}
