// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/backend/bounce_memory.hpp>

#include <cstdint>
#include <thread>

TEST_CASE("backend/bounce_memory: aligned for any device, one block for each thread")
{
    const auto here = nbd::bounce_memory();
    CHECK(here.size() == 1 << 20);
    CHECK(reinterpret_cast<std::uintptr_t>(here.data()) % 65536 == 0);
    CHECK(nbd::bounce_memory().data() == here.data());
    const std::byte* there = here.data();
    std::thread{[&] { there = nbd::bounce_memory().data(); }}.join();
    CHECK(there != here.data());
}
