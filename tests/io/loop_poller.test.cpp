// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "grid/allocation_count.hpp"
#include <nbd/io/loop_poller.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace {

struct alone {
    bool operator()() const { return false; }
};
struct crowded {
    bool operator()() const { return true; }
};
using loop_poller = nbd::io::basic_loop_poller<alone>;

}  // namespace

TEST_CASE("io/loop_poller: the loop runs for the budget, and other handlers run meanwhile")
{
    asio::io_context context{1};
    auto& poller = loop_poller::of(context.get_executor());
    bool ran = false;
    const auto begun = loop_poller::clock::now();
    poller.poll_for(2ms);
    asio::post(context, [&] { ran = true; });
    const auto handlers = context.run();
    CHECK(ran);
    CHECK(handlers >= 2);
    CHECK(loop_poller::clock::now() - begun >= 1ms);
}

TEST_CASE(
    "io/loop_poller: a longer budget extends a shorter one, and a shorter one changes nothing")
{
    asio::io_context context{1};
    auto& poller = loop_poller::of(context.get_executor());
    const auto begun = loop_poller::clock::now();
    poller.poll_for(1ms);
    poller.poll_for(4ms);
    poller.poll_for(1us);
    context.run();
    CHECK(loop_poller::clock::now() - begun >= 3ms);
}

TEST_CASE("io/loop_poller: polling allocates nothing")
{
    asio::io_context context{1};
    auto& poller = loop_poller::of(context.get_executor());
    poller.poll_for(100us);
    context.run();  // Asio's one-time allocations
    context.restart();
    const auto before = grid::allocations();
    for (int i = 0; i < 10; ++i) {
        poller.poll_for(200us);
        context.run();
        context.restart();
    }
    CHECK(grid::allocations() == before);
}

TEST_CASE("io/loop_poller: a context that is destroyed while it polls drops the poller")
{
    auto context = std::make_unique<asio::io_context>(1);
    loop_poller::of(context->get_executor()).poll_for(1h);
    context->run_one();
    CHECK_NOTHROW(context.reset());
}

TEST_CASE("io/loop_poller: polls that are given up become rare")
{
    using poller_type = nbd::io::basic_loop_poller<crowded>;
    asio::io_context context{1};
    auto& poller = poller_type::of(context.get_executor());
    const auto polls = [&] {
        poller.poll_for(1h);
        const bool polled = context.run() != 0;  // at once, because it is given up
        context.restart();
        return polled;
    };
    const auto calls_for_one = [&] {
        int calls = 1;
        while (!polls())
            ++calls;
        return calls;
    };
    for (const int calls : {1, 2, 3, 5, 9, 17, 33, 65, 65})
        CHECK(calls_for_one() == calls);
}

TEST_CASE("io/loop_poller: no polling while too many threads are awake")
{
    asio::io_context context{1};
    auto& poller = loop_poller::of(context.get_executor());
    const auto most = std::max(1U, std::thread::hardware_concurrency() / 2);
    for (unsigned i = 0; i < most; ++i)
        nbd::io::awake_threads::add();
    poller.poll_for(1us);
    CHECK(context.run() == 0);
    context.restart();
    for (unsigned i = 0; i < most; ++i)
        nbd::io::awake_threads::remove();
    poller.poll_for(1us);
    CHECK(context.run() != 0);
    CHECK(nbd::io::awake_threads::leave_room());
}
