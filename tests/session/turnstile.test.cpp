// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/session/turnstile.hpp>

#include <atomic>
#include <semaphore>
#include <string>
#include <thread>
#include <vector>

using nbd::session::turnstile;

namespace {

struct guest : turnstile::visitor {
    guest(char n, std::string& s) : name{n}, story{&s}
    {
        admitted = [](visitor& v) {
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

TEST_CASE("session/turnstile: one at a time, in the order in which they came")
{
    turnstile way;
    std::string story;
    guest a{'a', story};
    guest b{'b', story};
    guest c{'c', story};
    CHECK(way.enter(a));
    CHECK_FALSE(way.enter(b));
    CHECK_FALSE(way.enter(c));
    CHECK(story.empty());  // who is let in at once is not told
    way.leave();
    CHECK(story == "b");
    way.leave();
    CHECK(story == "bc");
    way.leave();
    CHECK(story == "bc");
}

TEST_CASE(
    "session/turnstile: when all have left it is free again, and who comes again queues again")
{
    turnstile way;
    std::string story;
    guest a{'a', story};
    guest b{'b', story};
    for (int round = 0; round < 3; ++round) {
        story.clear();
        REQUIRE(way.enter(a));
        REQUIRE_FALSE(way.enter(b));
        way.leave();
        REQUIRE(story == "b");
        REQUIRE_FALSE(way.enter(a));  // b is inside
        way.leave();
        REQUIRE(story == "ba");
        REQUIRE_FALSE(way.enter(b));
        way.leave();
        REQUIRE(story == "bab");
        way.leave();
    }
}

TEST_CASE("session/turnstile: who comes while one waits does not pass by")
{
    turnstile way;
    std::string story;
    std::vector<guest> all;
    for (char name = 'a'; name <= 'z'; ++name)
        all.emplace_back(name, story);
    CHECK(way.enter(all[0]));
    for (std::size_t i = 1; i < 13; ++i)
        CHECK_FALSE(way.enter(all[i]));
    for (std::size_t i = 13; i < all.size(); ++i) {
        way.leave();
        CHECK_FALSE(way.enter(all[i]));
    }
    for (int i = 0; i < 13; ++i)
        way.leave();
    CHECK(story == "bcdefghijklmnopqrstuvwxyz");
    CHECK(way.enter(all[0]));
}

TEST_CASE("session/turnstile: who cannot take its turn is passed by")
{
    turnstile way;
    std::string story;
    guest a{'a', story};
    guest b{'b', story};
    guest c{'c', story};
    b.goes = false;
    REQUIRE(way.enter(a));
    REQUIRE_FALSE(way.enter(b));
    REQUIRE_FALSE(way.enter(c));
    way.leave();
    CHECK(story == "bc");
    REQUIRE_FALSE(way.enter(b));  // c is inside
    way.leave();
    CHECK(story == "bcb");
    CHECK(way.enter(a));
}

TEST_CASE("session/turnstile: from many threads, one inside at a time and each gets its turns")
{
    struct waiting : turnstile::visitor {
        std::binary_semaphore called{0};
    };
    constexpr int threads = 4;
    constexpr int turns = 3000;
    turnstile way;
    std::atomic<int> inside{0};
    std::atomic<bool> alone{true};
    int total = 0;  // the turnstile guards it
    std::vector<std::thread> all;
    for (int t = 0; t < threads; ++t)
        all.emplace_back([&] {
            waiting me;
            me.admitted = [](turnstile::visitor& v) {
                static_cast<waiting&>(v).called.release();
                return true;
            };
            for (int i = 0; i < turns; ++i) {
                if (!way.enter(me))
                    me.called.acquire();
                if (inside.fetch_add(1) != 0)
                    alone = false;
                ++total;
                inside.fetch_sub(1);
                way.leave();
            }
        });
    for (auto& t : all)
        t.join();
    CHECK(alone);
    CHECK(total == threads * turns);
}
