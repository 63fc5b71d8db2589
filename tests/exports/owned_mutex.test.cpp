// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/exports/owned_mutex.hpp>

#include <mutex>
#include <thread>

TEST_CASE("exports/owned_mutex: only the thread that holds the lock is told so")
{
    nbd::exports::owned_mutex mutex;
    CHECK_FALSE(mutex.held_here());
    {
        const std::lock_guard lock{mutex};
        CHECK(mutex.held_here());
        bool elsewhere = true;
        bool taken = true;
        std::thread{[&] {
            elsewhere = mutex.held_here();
            taken = mutex.try_lock();
        }}.join();
        CHECK_FALSE(elsewhere);
        CHECK_FALSE(taken);
    }
    CHECK_FALSE(mutex.held_here());
    REQUIRE(mutex.try_lock());
    CHECK(mutex.held_here());
    mutex.unlock();
    CHECK_FALSE(mutex.held_here());
}
