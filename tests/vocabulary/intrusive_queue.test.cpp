// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/vocabulary/intrusive_queue.hpp>

using nbd::intrusive_queue;

namespace {

struct item {
    int number = 0;
    item* behind = nullptr;
};

}  // namespace

TEST_CASE("vocabulary/intrusive_queue: items leave in the order of arrival")
{
    intrusive_queue<item> queue;
    CHECK(queue.empty());
    item a{.number = 1};
    item b{.number = 2};
    queue.push(a);
    queue.push(b);
    CHECK(queue.pop().number == 1);
    queue.push(a);  // behind b now
    CHECK(queue.pop().number == 2);
    CHECK(queue.pop().number == 1);
    CHECK(queue.empty());
}

TEST_CASE("vocabulary/intrusive_queue: a queue that was emptied can be used again")
{
    intrusive_queue<item> queue;
    item a{.number = 1};
    for (int i = 0; i < 3; ++i) {
        queue.push(a);
        CHECK(&queue.pop() == &a);
        CHECK(queue.empty());
    }
}
