// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/acceptance/admission_queue.hpp>

#include <cstddef>
#include <cstdint>

using nbd::acceptance::admission_queue;
using nbd::session::ticker;

namespace {
/// Peers are numbers; peer 7 has too many connections.
struct connections {
    std::size_t connected = 0;
    int asked = 0;
    std::uint64_t grace = 0;
    [[nodiscard]] std::size_t count() const { return connected; }
    void make_room(std::uint64_t, std::uint64_t idle_grace)
    {
        ++asked;
        grace = idle_grace;
    }
    [[nodiscard]] bool make_room_for(int peer, std::size_t, std::uint64_t, std::uint64_t) const
    {
        return peer != 7;
    }
};
}  // namespace

TEST_CASE("acceptance/admission_queue: free places are given in the order of arrival")
{
    nbd::settings limits;
    limits.max_connections = 2;
    admission_queue<int, int> queue{limits};
    connections c;
    int refused = 0;
    const auto refuse = [&] { ++refused; };
    CHECK_FALSE(queue.next(c, 0, refuse));
    queue.push(1, 7);
    queue.push(2, 0);
    queue.push(3, 0);
    const auto first = queue.next(c, 0, refuse);
    REQUIRE(first);
    CHECK(first->socket == 2);
    CHECK(refused == 1);
    c.connected = 2;
    CHECK_FALSE(queue.next(c, 0, refuse));
    CHECK(c.asked == 1);
    CHECK(c.grace == ticker::ticks(limits.evict_idle_after));
    CHECK_FALSE(queue.empty());
    c.connected = 1;
    CHECK(queue.next(c, 0, refuse)->socket == 3);
    CHECK(queue.empty());
}

TEST_CASE("acceptance/admission_queue: 0 is no limit")
{
    nbd::settings limits;
    limits.max_connections = 0;
    limits.max_connections_per_peer = 0;
    admission_queue<int, int> queue{limits};
    connections c{.connected = 100'000};
    queue.push(1, 7);
    CHECK(queue.next(c, 0, [] {}));
    CHECK(c.asked == 0);
}
