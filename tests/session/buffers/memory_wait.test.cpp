// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/io/asynchronous.hpp>
#include <nbd/io/blocking.hpp>
#include <nbd/session/buffers/memory_wait.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <memory>
#include <string>
#include <thread>
#include <utility>

using nbd::session::charge;
using nbd::session::client_memory;
using nbd::session::memory_budget;
using pool = memory_budget::pool;

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;
using executor = boost::asio::io_context::executor_type;

nbd::settings limits()
{
    nbd::settings s;
    s.server_memory = 8 * mib;  // four connections that work, and 6 MiB for requests
    return s;
}

struct server {
    executor get_executor() { return context.get_executor(); }
    boost::asio::io_context context{1};
    memory_budget memory{limits()};
};

/// Returns when there is a waiter.
void await_waiter(const memory_budget& budget)
{
    while (!budget.waited_for(pool::working) && !budget.waited_for(pool::requests))
        std::this_thread::yield();
}

/// Waits on the calling thread.
struct blocking_wait : nbd::session::memory_wait<nbd::io::blocking> {
    using memory_wait::memory_wait;
    charge for_bytes(std::size_t n)
    {
        if (for_request(n))
            std::ignore = ended();
        return request();
    }
};

using waiting = nbd::session::memory_wait<nbd::io::asynchronous<executor>>;

}  // namespace

TEST_CASE("session/buffers/memory_wait: a thread waits until there is memory, or until the wait "
          "is over")
{
    server s;
    client_memory a{s.memory};
    blocking_wait wait{s, a};
    REQUIRE(s.memory.take(pool::requests, 6 * mib));
    std::thread other;
    SECTION("until there is memory")
    {
        other = std::thread{[&] {
            await_waiter(s.memory);
            s.memory.give_back(pool::requests, 2 * mib);
        }};
        const auto got = wait.for_bytes(2 * mib);
        CHECK(got.bytes() == 2 * mib);
    }
    SECTION("until the connection is closed")
    {
        other = std::thread{[&] {
            await_waiter(s.memory);
            a.close();
        }};
        CHECK(wait.for_bytes(mib).bytes() == 0);
        CHECK(wait.for_bytes(mib).bytes() == 0);
    }
    SECTION("until the server stops")
    {
        REQUIRE(s.memory.take(pool::working, 2 * mib));
        other = std::thread{[&] {
            await_waiter(s.memory);
            s.memory.stop();
        }};
        if (wait.for_work())
            std::ignore = wait.ended();
        CHECK_FALSE(wait.granted());
        CHECK(a.holds(pool::working) == 0);
    }
    other.join();
    CHECK_FALSE(s.memory.waited_for(pool::requests));
}

TEST_CASE("session/buffers/memory_wait: coroutines wait without a thread, first come first served")
{
    server s;
    client_memory a{s.memory};
    client_memory b{s.memory};
    REQUIRE(s.memory.take(pool::working, 2 * mib));
    std::string story;
    const auto work = [&](client_memory& m, char name) {
        boost::asio::co_spawn(
            s.context,
            [&m, &s, &story, name]() -> boost::asio::awaitable<void, executor> {
                waiting wait{s, m};
                if (wait.for_work())
                    co_await wait.ended();
                story += wait.granted() ? name : '-';
            },
            boost::asio::detached);
    };
    work(a, 'a');
    work(b, 'b');
    s.context.poll();
    CHECK(story.empty());
    s.memory.give_back(pool::working, memory_budget::working_bytes);
    s.context.restart();
    s.context.poll();
    CHECK(story == "a");
    CHECK(a.holds(pool::working) != 0);
    b.close();
    s.context.restart();
    s.context.poll();
    CHECK(story == "a-");
}

TEST_CASE("session/buffers/memory_wait: a destroyed wait leaves no waiter and no charge")
{
    using io = nbd::io::asynchronous<executor>;
    memory_budget memory{limits()};
    REQUIRE(memory.take(pool::working, 2 * mib));
    client_memory a{memory};
    struct {
        executor get_executor() { return context->get_executor(); }
        std::unique_ptr<boost::asio::io_context> context =
            std::make_unique<boost::asio::io_context>(1);
    } s;
    boost::asio::co_spawn(
        *s.context,
        [&]() -> boost::asio::awaitable<void, executor> {
            nbd::session::memory_wait<io> wait{s, a};
            if (wait.for_work())
                co_await wait.ended();
        },
        boost::asio::detached);
    s.context->poll();
    CHECK(memory.waited_for(pool::working));
    SECTION("while it waits") {}
    SECTION("after it was granted, before it has resumed")
    {
        memory.give_back(pool::working, memory_budget::working_bytes);
        CHECK(memory.used(pool::working) == 2 * mib);
        REQUIRE(memory.take(pool::requests, 1));
        s.context.reset();
        CHECK(memory.used(pool::working) == 2 * mib - memory_budget::working_bytes);
        return;
    }
    s.context.reset();
    CHECK_FALSE(memory.waited_for(pool::working));
    CHECK(a.holds(pool::working) == 0);
}
