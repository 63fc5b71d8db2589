// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/acceptance/admission_queue.hpp>

#include <cstddef>
#include <cstdint>

using nbd::acceptance::admission_queue;
using nbd::session::ticker;

namespace {
/// Peers are numbers; peer 7 has its share.
struct connections {
    std::size_t connected = 0;
    int asked = 0;
    std::uint64_t grace = 0;
    [[nodiscard]] std::size_t count() const { return connected; }
    [[nodiscard]] bool make_room(int peer, std::size_t, std::uint64_t, std::uint64_t idle_grace)
    {
        ++asked;
        grace = idle_grace;
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
    const auto first = queue.next(c, 0, refuse);
    REQUIRE(first);
    CHECK(first->socket == 1);
    CHECK(c.asked == 0);
    queue.push(2, 7);
    queue.push(3, 0);
    c.connected = 2;
    CHECK_FALSE(queue.next(c, 0, refuse));
    CHECK(refused == 1);  // and not in the way of the next one
    CHECK(c.asked == 2);
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
    admission_queue<int, int> queue{limits};
    connections c{.connected = 100'000};
    queue.push(1, 7);
    CHECK(queue.next(c, 0, [] {}));
    CHECK(c.asked == 0);
}
