// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/io/asynchronous.hpp>
#include <nbd/io/blocking.hpp>
#include <nbd/session/buffers/client_memory.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <memory>
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

}  // namespace

TEST_CASE("session/buffers/client_memory: a charge is released once, in parts or as a whole")
{
    server s;
    client_memory client{s.memory};
    {
        charge all;
        REQUIRE(client.begin_request(all, 3 * mib));
        all.shrink(4 * mib);
        CHECK(s.memory.used(pool::requests) == 3 * mib);
        all.shrink(mib);
        CHECK(s.memory.used(pool::requests) == mib);
        charge moved{std::move(all)};
        CHECK(all.bytes() == 0);  // NOLINT: a moved-from charge is empty
        CHECK(moved.bytes() == mib);
        all = std::move(moved);
        CHECK(s.memory.used(pool::requests) == mib);
        CHECK(client.holds(pool::requests) == mib);
    }
    CHECK(s.memory.used(pool::requests) == 0);
    CHECK(client.holds(pool::requests) == 0);
}

TEST_CASE("session/buffers/client_memory: an idle client keeps its charge unless memory is scarce")
{
    server s;
    client_memory a{s.memory};
    CHECK(a.holds(pool::working) == 0);
    CHECK(a.begin_work());
    CHECK(a.begin_work());
    CHECK(s.memory.used(pool::working) == memory_budget::working_bytes);
    a.rest();
    CHECK(a.holds(pool::working) != 0);
    client_memory b{s.memory};
    CHECK(b.begin_work());
    CHECK_FALSE(s.memory.scarce());
    {
        client_memory c{s.memory};
        CHECK(c.begin_work());
        CHECK(c.scarce());
        b.rest();
        CHECK(b.holds(pool::working) == 0);
        CHECK_FALSE(c.scarce());
        CHECK(c.holds(pool::working) != 0);
    }
    CHECK(s.memory.used(pool::working) == memory_budget::working_bytes);
}

TEST_CASE("session/buffers/client_memory: a request is charged, or has to wait")
{
    server s;
    client_memory a{s.memory};
    charge first;
    charge second;
    charge nothing;
    CHECK(a.most_for_requests() == 6 * mib);
    CHECK(a.begin_request(first, 4 * mib));
    CHECK_FALSE(a.begin_request(second, 4 * mib));
    CHECK(second.bytes() == 0);
    CHECK(a.begin_request(nothing, 0));
    first.shrink(0);
    CHECK(a.begin_request(second, 4 * mib));
    CHECK(second.bytes() == 4 * mib);
}

TEST_CASE("session/buffers/client_memory: a thread waits until there is memory, or until the wait "
          "is over")
{
    server s;
    client_memory a{s.memory};
    REQUIRE(s.memory.take(pool::requests, 6 * mib));
    std::thread other;
    SECTION("until there is memory")
    {
        other = std::thread{[&] {
            await_waiter(s.memory);
            s.memory.give_back(pool::requests, 2 * mib);
        }};
        const auto got = a.wait_for_request<nbd::io::blocking>(s, 2 * mib).get();
        CHECK(got.bytes() == 2 * mib);
    }
    SECTION("until the connection is closed")
    {
        other = std::thread{[&] {
            await_waiter(s.memory);
            a.close();
        }};
        CHECK(a.wait_for_request<nbd::io::blocking>(s, mib).get().bytes() == 0);
        CHECK(a.wait_for_request<nbd::io::blocking>(s, mib).get().bytes() == 0);
    }
    SECTION("until the server stops")
    {
        REQUIRE(s.memory.take(pool::working, 2 * mib));
        other = std::thread{[&] {
            await_waiter(s.memory);
            s.memory.stop();
        }};
        CHECK_FALSE(a.wait_to_work<nbd::io::blocking>(s).get());
        CHECK(a.holds(pool::working) == 0);
    }
    other.join();
    CHECK_FALSE(s.memory.waited_for(pool::requests));
}

TEST_CASE(
    "session/buffers/client_memory: coroutines wait without a thread, first come first served")
{
    using io = nbd::io::asynchronous<executor>;
    server s;
    client_memory a{s.memory};
    client_memory b{s.memory};
    REQUIRE(s.memory.take(pool::working, 2 * mib));
    std::string story;
    const auto work = [&](client_memory& m, char name) {
        boost::asio::co_spawn(
            s.context,
            [&m, &s, &story, name]() -> boost::asio::awaitable<void, executor> {
                story += co_await m.wait_to_work<io>(s) ? name : '-';
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

TEST_CASE("session/buffers/client_memory: a destroyed wait leaves no waiter and no charge")
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
            std::ignore = co_await a.wait_to_work<io>(s);
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
