// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/session/buffers/memory_budget.hpp>

#include <atomic>
#include <new>
#include <thread>
#include <vector>

using nbd::session::memory_budget;
using pool = memory_budget::pool;

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

nbd::settings limits_of(std::size_t server, std::size_t client = 0)
{
    nbd::settings limits;
    limits.server_memory = server;
    limits.client_memory = client;
    return limits;
}

/// A waiter that counts how often it was woken.
struct waiting : memory_budget::waiter {
    waiting()
    {
        argument = this;
        wake = [](void* to) {
            auto& self = *static_cast<waiting*>(to);
            if (self.failures != 0) {
                --self.failures;
                throw std::bad_alloc{};
            }
            ++self.woken;
        };
    }
    int woken = 0;
    int failures = 0;
};

}  // namespace

TEST_CASE("session/buffers/memory_budget: a quarter is working memory, the rest is for requests")
{
    const memory_budget budget{limits_of(64 * mib)};
    CHECK(budget.limit(pool::working) == 16 * mib);
    CHECK(budget.limit(pool::requests) == 48 * mib);
    CHECK(budget.requests_of_a_client() == 48 * mib);
    const memory_budget of_defaults{nbd::settings{}};
    // The longest request of an export with default block sizes.
    CHECK(of_defaults.requests_of_a_client() >= 32 * mib);
    CHECK(of_defaults.requests_of_a_client() == 64 * mib - memory_budget::working_bytes);
}

TEST_CASE("session/buffers/memory_budget: zero is no limit, and too little counts as 2 MiB")
{
    memory_budget none{limits_of(0)};
    CHECK(none.take(pool::requests, std::size_t{1} << 60));
    CHECK(none.take(pool::working, std::size_t{1} << 60));
    const memory_budget little{limits_of(1, 1)};
    CHECK(little.limit(pool::working) == memory_budget::working_bytes);
    CHECK(little.limit(pool::requests) == 3 * memory_budget::working_bytes);
    CHECK(little.requests_of_a_client() == 3 * memory_budget::working_bytes);
}

TEST_CASE("session/buffers/memory_budget: each pool is charged up to its limit, and no further")
{
    memory_budget budget{limits_of(8 * mib)};
    CHECK(budget.take(pool::requests, 4 * mib));
    CHECK_FALSE(budget.take(pool::requests, 2 * mib + 1));
    CHECK(budget.take(pool::requests, 2 * mib));
    CHECK_FALSE(budget.take(pool::requests, 1));
    CHECK(budget.take(pool::working, 2 * mib));
    CHECK_FALSE(budget.take(pool::working, 1));
    budget.give_back(pool::requests, 1);
    CHECK(budget.take(pool::requests, 1));
    CHECK(budget.used(pool::requests) == 6 * mib);
    CHECK_FALSE(budget.waited_for(pool::requests));
}

TEST_CASE("session/buffers/memory_budget: waiters are served in the order of arrival")
{
    memory_budget budget{limits_of(8 * mib)};
    REQUIRE(budget.take(pool::requests, 6 * mib));
    waiting large;
    waiting small;
    REQUIRE(budget.wait(large, pool::requests, 4 * mib));
    REQUIRE(budget.wait(small, pool::requests, 1));
    CHECK(budget.waited_for(pool::requests));
    budget.give_back(pool::requests, mib);
    // There is enough for the second waiter and for a new one, but the first one is served before.
    CHECK(small.woken == 0);
    CHECK_FALSE(budget.take(pool::requests, 1));
    budget.give_back(pool::requests, 3 * mib);
    CHECK(large.woken == 1);
    CHECK(large.granted);
    CHECK(small.woken == 0);
    budget.give_back(pool::requests, 1);
    CHECK(small.woken == 1);
    CHECK(small.granted);
    CHECK_FALSE(budget.waited_for(pool::requests));
    CHECK(budget.used(pool::requests) == 6 * mib);
}

TEST_CASE(
    "session/buffers/memory_budget: a wait for memory that is free by then is granted at once")
{
    memory_budget budget{limits_of(8 * mib)};
    waiting w;
    CHECK_FALSE(budget.wait(w, pool::requests, mib));
    CHECK(w.granted);
    CHECK(w.woken == 0);
    CHECK_FALSE(budget.waited_for(pool::requests));
    CHECK(budget.used(pool::requests) == mib);
}

TEST_CASE(
    "session/buffers/memory_budget: a closed waiter is woken without memory, and gets none later")
{
    memory_budget budget{limits_of(8 * mib)};
    REQUIRE(budget.take(pool::working, 2 * mib));
    waiting first;
    waiting second;
    REQUIRE(budget.wait(first, pool::working, mib));
    REQUIRE(budget.wait(second, pool::working, mib));
    budget.close(first);
    CHECK(first.woken == 1);
    CHECK_FALSE(first.granted);
    CHECK_FALSE(budget.wait(first, pool::working, mib));
    CHECK_FALSE(first.granted);
    budget.give_back(pool::working, mib);
    CHECK(second.woken == 1);
    CHECK(second.granted);
    CHECK(first.woken == 1);
}

TEST_CASE(
    "session/buffers/memory_budget: the next waiter is served when the one before it gives up")
{
    memory_budget budget{limits_of(8 * mib)};
    REQUIRE(budget.take(pool::requests, 5 * mib));
    waiting large;
    waiting small;
    REQUIRE(budget.wait(large, pool::requests, 6 * mib));
    REQUIRE(budget.wait(small, pool::requests, mib));
    SECTION("closed")
    {
        budget.close(large);
    }
    SECTION("forgotten")
    {
        budget.forget(large);
        CHECK(large.woken == 0);
    }
    CHECK(small.woken == 1);
    CHECK(small.granted);
}

TEST_CASE("session/buffers/memory_budget: stop ends all waits, and none begins afterwards")
{
    memory_budget budget{limits_of(8 * mib)};
    REQUIRE(budget.take(pool::requests, 6 * mib));
    REQUIRE(budget.take(pool::working, 2 * mib));
    waiting a;
    waiting b;
    waiting c;
    REQUIRE(budget.wait(a, pool::requests, mib));
    REQUIRE(budget.wait(b, pool::requests, mib));
    REQUIRE(budget.wait(c, pool::working, mib));
    budget.stop();
    for (const auto* w : {&a, &b, &c}) {
        CHECK(w->woken == 1);
        CHECK_FALSE(w->granted);
    }
    CHECK_FALSE(budget.wait(a, pool::requests, 1));
    CHECK_FALSE(a.granted);
    budget.give_back(pool::requests, 6 * mib);
    CHECK(budget.used(pool::requests) == 0);
}

TEST_CASE("session/buffers/memory_budget: a waiter that cannot be woken is retried later")
{
    memory_budget budget{limits_of(8 * mib)};
    REQUIRE(budget.take(pool::requests, 6 * mib));
    waiting w;
    w.failures = 2;
    REQUIRE(budget.wait(w, pool::requests, mib));
    budget.give_back(pool::requests, 3 * mib);
    CHECK(w.woken == 0);
    CHECK(budget.used(pool::requests) == 3 * mib);
    budget.retry();
    CHECK(w.woken == 0);
    SECTION("with its memory")
    {
        budget.retry();
        CHECK(w.woken == 1);
        CHECK(w.granted);
    }
    SECTION("closed, without memory")
    {
        w.failures = 1;
        budget.close(w);
        CHECK(w.woken == 0);
        budget.retry();
        CHECK(w.woken == 1);
        CHECK_FALSE(w.granted);
        CHECK(budget.used(pool::requests) == 3 * mib);
    }
    budget.retry();
    CHECK(w.woken == 1);
}

TEST_CASE("session/buffers/memory_budget: threads that take and wait never exceed the limit")
{
    memory_budget budget{limits_of(8 * mib)};
    constexpr std::size_t share = 5 * mib;  // one share fits at a time
    std::atomic<int> inside{0};
    std::atomic<bool> too_many{false};
    std::vector<std::thread> all;
    for (int i = 0; i < 4; ++i)
        all.emplace_back([&] {
            struct sleeper : memory_budget::waiter {
                std::atomic<bool> awake{false};
            } s;
            s.argument = &s.awake;
            s.wake = [](void* to) {
                auto& awake = *static_cast<std::atomic<bool>*>(to);
                awake = true;
                awake.notify_one();
            };
            for (int n = 0; n < 2000; ++n) {
                s.awake = false;
                if (!budget.take(pool::requests, share) && budget.wait(s, pool::requests, share))
                    s.awake.wait(false);
                if (inside.fetch_add(1) != 0)
                    too_many = true;
                inside.fetch_sub(1);
                budget.give_back(pool::requests, share);
            }
        });
    for (auto& t : all)
        t.join();
    CHECK_FALSE(too_many);
    CHECK(budget.used(pool::requests) == 0);
    CHECK_FALSE(budget.waited_for(pool::requests));
}
