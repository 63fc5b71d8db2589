// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/exports/presence.hpp>

#include <chrono>

using nbd::exports::presence;
using namespace std::chrono_literals;

TEST_CASE("presence: a removal disconnects nobody unless it says so")
{
    presence p;
    CHECK_FALSE(p.gone());
    CHECK_FALSE(p.disconnects(presence::clock::time_point::max()));
    p.remove({});
    CHECK(p.gone());
    CHECK_FALSE(p.disconnects(presence::clock::now() + 1h));
}

TEST_CASE("presence: a removal disconnects at once, or after a grace")
{
    presence at_once;
    at_once.remove({.clients = nbd::disconnect_after{}});
    CHECK(at_once.disconnects(presence::clock::now()));
    presence before;
    before.remove({.clients = nbd::disconnect_after{-5s}});
    CHECK(before.disconnects(presence::clock::now()));
    presence later;
    later.remove({.clients = nbd::disconnect_after{1h}});
    CHECK_FALSE(later.disconnects(presence::clock::now() + 59min));
    CHECK(later.disconnects(presence::clock::now() + 1h));
    presence never;
    never.remove({.clients = nbd::disconnect_after{std::chrono::milliseconds::max()}});
    CHECK(never.gone());
    CHECK_FALSE(never.disconnects(presence::clock::now() + 24h * 365));
}
