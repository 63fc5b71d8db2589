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
static_assert(ticker::ticks(10s) == 41 && ticker::ticks(24h) == 24 * 3600 * 4 + 1);

TEST_CASE("session/deadline: nothing is overdue that was not armed")
{
    ticker clock;
    deadline d{clock};
    CHECK_FALSE(d.overdue());
    clock.advance_to(1'000'000'000);
    CHECK_FALSE(d.overdue());
}

TEST_CASE("session/deadline: overdue after its patience and not before it")
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

TEST_CASE("session/deadline: armed again it starts anew, with the new reason")
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
