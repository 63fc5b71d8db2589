// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/acceptance/sweeper.hpp>

#include <cstddef>
#include <cstdint>
#include <thread>

using nbd::acceptance::sweeper;
using nbd::session::ticker;

namespace {
struct connections {
    std::size_t connected = 0;
    std::uint64_t swept = 0;  ///< ticks
    int sweeps = 0;
    [[nodiscard]] std::size_t count() const { return connected; }
    void cut_overdue(std::uint64_t ticks)
    {
        swept = ticks;
        ++sweeps;
    }
};
}  // namespace

TEST_CASE("acceptance/sweeper: time advances in ticks, and each tick is swept at most once")
{
    sweeper s;
    connections few;
    s.advance();
    s.sweep(few);
    CHECK(few.sweeps == 0);
    while (s.now() == 0) {
        std::this_thread::sleep_for(ticker::tick / 10);
        s.advance();
    }
    connections many{.connected = 100'000};
    s.sweep(many);
    CHECK(many.sweeps == 0);  // not at every tick
    s.sweep(few);
    s.sweep(few);
    CHECK(few.sweeps == 1);
    CHECK(few.swept == 1);
    CHECK(s.clock().now() == s.now());
}
