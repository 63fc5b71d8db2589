// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/exports/async_mutex.hpp>

#include <atomic>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

using nbd::exports::async_mutex;

namespace {

struct guest : async_mutex::waiter {
    guest(char n, std::string& s) : name{n}, story{&s}
    {
        granted = [](waiter& v) {
            auto& self = static_cast<guest&>(v);
            *self.story += self.name;
            return self.goes;
        };
    }
    char name;
    std::string* story;
    bool goes = true;
};

}  // namespace

TEST_CASE("exports/async_mutex: waiters get the lock one at a time, in the order of arrival")
{
    async_mutex way;
    std::string story;
    guest a{'a', story};
    guest b{'b', story};
    guest c{'c', story};
    CHECK(way.lock(a));
    CHECK_FALSE(way.lock(b));
    CHECK_FALSE(way.lock(c));
    CHECK(story.empty());  // `granted` is not called for a lock that is free
    way.unlock();
    CHECK(story == "b");
    way.unlock();
    CHECK(story == "bc");
    way.unlock();
    CHECK(story == "bc");
}

TEST_CASE("exports/async_mutex: it is free after the last unlock, and can be locked again")
{
    async_mutex way;
    std::string story;
    guest a{'a', story};
    guest b{'b', story};
    for (int round = 0; round < 3; ++round) {
        story.clear();
        REQUIRE(way.lock(a));
        REQUIRE_FALSE(way.lock(b));
        way.unlock();
        REQUIRE(story == "b");
        REQUIRE_FALSE(way.lock(a));  // b has the lock
        way.unlock();
        REQUIRE(story == "ba");
        REQUIRE_FALSE(way.lock(b));
        way.unlock();
        REQUIRE(story == "bab");
        way.unlock();
    }
}

TEST_CASE("exports/async_mutex: a later lock does not overtake a waiter")
{
    async_mutex way;
    std::string story;
    std::vector<guest> all;
    for (char name = 'a'; name <= 'z'; ++name)
        all.emplace_back(name, story);
    CHECK(way.lock(all[0]));
    for (std::size_t i = 1; i < 13; ++i)
        CHECK_FALSE(way.lock(all[i]));
    for (std::size_t i = 13; i < all.size(); ++i) {
        way.unlock();
        CHECK_FALSE(way.lock(all[i]));
    }
    for (int i = 0; i < 13; ++i)
        way.unlock();
    CHECK(story == "bcdefghijklmnopqrstuvwxyz");
    CHECK(way.lock(all[0]));
}

TEST_CASE("exports/async_mutex: a waiter that cannot be resumed is skipped")
{
    async_mutex way;
    std::string story;
    guest a{'a', story};
    guest b{'b', story};
    guest c{'c', story};
    b.goes = false;
    REQUIRE(way.lock(a));
    REQUIRE_FALSE(way.lock(b));
    REQUIRE_FALSE(way.lock(c));
    way.unlock();
    CHECK(story == "bc");
    REQUIRE_FALSE(way.lock(b));  // c has the lock
    way.unlock();
    CHECK(story == "bcb");
    CHECK(way.lock(a));
}

TEST_CASE("exports/async_mutex: with many threads, one holds the lock at a time, and none starves")
{
    struct waiting : async_mutex::waiter {
        std::binary_semaphore called{0};
    };
    constexpr int threads = 4;
    constexpr int turns = 3000;
    async_mutex way;
    std::atomic<int> inside{0};
    std::atomic<bool> alone{true};
    int total = 0;  // the async_mutex guards it
    std::vector<std::thread> all;
    for (int t = 0; t < threads; ++t)
        all.emplace_back([&] {
            waiting me;
            me.granted = [](async_mutex::waiter& v) {
                static_cast<waiting&>(v).called.release();
                return true;
            };
            for (int i = 0; i < turns; ++i) {
                if (!way.lock(me))
                    me.called.acquire();
                if (inside.fetch_add(1) != 0)
                    alone = false;
                ++total;
                inside.fetch_sub(1);
                way.unlock();
            }
        });
    for (auto& t : all)
        t.join();
    CHECK(alone);
    CHECK(total == threads * turns);
}
