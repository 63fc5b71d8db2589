// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/session/buffers/scratch.hpp>

#include <algorithm>

using nbd::session::scratch;

namespace {
constexpr std::size_t kept = std::size_t{1} << 20;
}

TEST_CASE("session/buffers/scratch: gives as much as is asked for, each time")
{
    scratch memory;
    for (const std::size_t n : {1U, 100U, 65536U, 1U << 20, 5U << 20, 7U, 33U << 20}) {
        const auto to = memory.bytes(n);
        REQUIRE(to.size() == n);
        std::fill(to.begin(), to.end(), std::byte{0xee});
    }
}

TEST_CASE("session/buffers/scratch: what is given back is given again")
{
    scratch memory;
    const auto* const first = memory.bytes(kept).data();
    CHECK(memory.bytes(1).data() == first);
    memory.give_back();
    CHECK(memory.bytes(kept).data() == first);
}

TEST_CASE("session/buffers/scratch: nothing was there to give back")
{
    scratch memory;
    memory.give_back();
    memory.give_back();
    CHECK(memory.bytes(0).empty());
    CHECK(memory.bytes(10).size() == 10);
}
