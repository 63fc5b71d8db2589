// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/acceptance/admission_queue.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

using nbd::acceptance::admission_queue;
using nbd::session::ticker;

namespace {
/// Peers are numbers; peer 7 has its share.
struct connections {
    std::size_t connected = 0;
    int asked = 0;
    int asked_for = 0;
    std::uint64_t grace = 0;
    [[nodiscard]] std::size_t count() const { return connected; }
    [[nodiscard]] bool has_share(int peer, std::size_t share) const
    {
        return share != 0 && peer == 7;
    }
    void make_room(int peer, std::size_t, std::uint64_t, std::uint64_t idle_grace, std::uint64_t)
    {
        ++asked;
        asked_for = peer;
        grace = idle_grace;
    }
};
}  // namespace

TEST_CASE("acceptance/admission_queue: free places are given in the order of arrival")
{
    nbd::settings limits;
    limits.max_connections = 2;
    admission_queue<int, int> queue{limits};
    connections c;
    const auto refuse = [](int, nbd::errc) { FAIL("refused"); };
    CHECK_FALSE(queue.next(c, 0, refuse));
    queue.push(1, 7);
    queue.push(2, 0);
    queue.push(3, 0);
    CHECK(queue.next(c, 0, refuse)->socket == 1);
    CHECK(queue.next(c, 0, refuse)->socket == 2);
    CHECK(c.asked == 0);
    c.connected = 2;
    CHECK(queue.accepts());
    CHECK_FALSE(queue.next(c, 0, refuse));
    CHECK_FALSE(queue.accepts());
    CHECK(c.asked == 1);
    CHECK(c.grace == ticker::ticks(limits.evict_idle_after));
    c.connected = 1;
    CHECK(queue.next(c, 0, refuse)->socket == 3);
    CHECK_FALSE(queue.next(c, 0, refuse));
    CHECK(queue.accepts());
}

TEST_CASE("acceptance/admission_queue: peers that have their share wait behind the others")
{
    nbd::settings limits;
    limits.max_connections = 2;
    admission_queue<int, int> queue{limits};
    connections c{.connected = 2};
    int refused = 0;
    const auto refuse = [&](int peer, nbd::errc why) {
        ++refused;
        CHECK(peer == 7);
        CHECK(why == nbd::errc::too_many_connections);
    };
    for (int i = 0; i < 16; ++i) {
        CHECK(queue.accepts());
        queue.push(i, 7);
        CHECK_FALSE(queue.next(c, 10, refuse));
    }
    CHECK_FALSE(queue.accepts());
    const auto later = 10 + ticker::ticks(std::chrono::seconds{1});
    CHECK_FALSE(queue.next(c, later - 1, refuse));
    CHECK(refused == 0);
    CHECK_FALSE(queue.next(c, later, refuse));
    CHECK(refused == 1);
    CHECK(queue.accepts());
    queue.push(100, 1);
    CHECK_FALSE(queue.next(c, later, refuse));
    CHECK(c.asked_for == 1);
    CHECK_FALSE(queue.accepts());
    c.connected = 1;
    CHECK(queue.next(c, later, refuse)->socket == 100);
    CHECK(queue.next(c, later, refuse)->socket == 1);  // the first one was refused
}

TEST_CASE("acceptance/admission_queue: a connection waits as long as a handshake may take")
{
    nbd::settings limits;
    limits.max_connections = 1;
    connections c{.connected = 1};
    int refused = 0;
    const int peer = GENERATE(1, 7);
    const auto refuse = [&](int whose, nbd::errc why) {
        ++refused;
        CHECK(whose == peer);
        CHECK(why == nbd::errc::no_place);
    };
    const auto wait = ticker::ticks(limits.handshake_deadline);
    SECTION("the default")
    {
        admission_queue<int, int> queue{limits};
        queue.push(1, peer);
        CHECK_FALSE(queue.next(c, 10, refuse));
        queue.push(2, peer);
        CHECK_FALSE(queue.next(c, 10 + wait - 1, refuse));
        CHECK(refused == 0);
        CHECK_FALSE(queue.next(c, 10 + wait, refuse));
        CHECK(refused == 1);
        c.connected = 0;
        CHECK(queue.next(c, 10 + wait, refuse)->socket == 2);
    }
    SECTION("no limit")
    {
        limits.handshake_deadline = std::chrono::milliseconds{0};
        admission_queue<int, int> queue{limits};
        queue.push(1, peer);
        CHECK_FALSE(queue.next(c, 10, refuse));
        CHECK_FALSE(queue.next(c, 1'000'000, refuse));
        CHECK(refused == 0);
    }
}

TEST_CASE("acceptance/admission_queue: 0 is no limit")
{
    nbd::settings limits;
    limits.max_connections = 0;
    admission_queue<int, int> queue{limits};
    connections c{.connected = 100'000};
    queue.push(1, 7);
    CHECK(queue.next(c, 0, [](int, nbd::errc) {}));
    CHECK(c.asked == 0);
}

TEST_CASE("acceptance/admission_queue: when the server stops, each that waits is refused")
{
    nbd::settings limits;
    limits.max_connections = 1;
    admission_queue<int, int> queue{limits};
    connections c{.connected = 1};
    queue.push(1, 7);
    CHECK_FALSE(queue.next(c, 10, [](int, nbd::errc) { FAIL("refused"); }));
    queue.push(2, 1);  // has not waited yet
    std::vector<int> refused;
    queue.clear([&](int peer, nbd::errc why) {
        refused.push_back(peer);
        CHECK(why == nbd::errc::server_stopped);
    });
    CHECK(refused == std::vector{7, 1});
    CHECK(queue.empty());
}
