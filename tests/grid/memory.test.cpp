// SPDX-License-Identifier: MIT
// No client, and not all clients together, make the server hold more memory than
// settings.server_memory. `[memory-table]` (not run by default) measures the default limits and
// prints a table.
#include "grid/memory.hpp"

#include "catch.hpp"
#include "support/sanitizers.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <exception>
#include <thread>
#include <tuple>

using namespace grid;

namespace {

nbd::settings limited_to(std::size_t server_memory)
{
    nbd::settings limits;
    limits.server_memory = server_memory;
    limits.stall_grace = std::chrono::hours{1};
    limits.places_per_peer = 0;  // all clients are this process
    return limits;
}
/// Bytes for requests.
std::size_t for_requests(const nbd::settings& limits)
{
    return limits.server_memory - limits.server_memory / 4;
}

struct measured {
    std::size_t heap = 0;      ///< allocated bytes when no client sends or receives any more
    std::size_t resident = 0;  ///< bytes by which the process has grown
    std::size_t holding = 0;   ///< clients whose request is in memory
    bool all_answered = false;

    void measure(const measured& before)
    {
        heap = heap_in_use() - before.heap;
        resident = grid::resident() - before.resident;
    }
};

constexpr auto has_sent_all = [](const slow_client& c) { return c.has_sent_all(); };

template <class With>
measured slow_writers(const nbd::settings& limits, std::size_t clients, std::size_t length)
{
    served_memory<With> s{limits, length};
    slow_clients all{s.server, clients, false};
    const measured before{.heap = heap_in_use(), .resident = resident()};
    all.each([&](slow_client& c) { c.begin({.command = command::write, .length = length}, 1); });
    measured m;
    const auto fit = std::min(clients, for_requests(limits) / length);
    std::ignore = all.pump_until([&] {
        m.holding = all.count(has_sent_all);
        return m.holding >= fit;
    });
    m.measure(before);
    // The last byte.
    all.each([](slow_client& c) { c.finish(proto::simple_reply_bytes); });
    m.all_answered = all.pump_until_all_are_answered();
    return m;
}

template <class With>
measured slow_readers(const nbd::settings& limits, std::size_t clients, std::size_t length)
{
    served_memory<With> s{limits, length};
    slow_clients all{s.server, clients, false};
    const measured before{.heap = heap_in_use(), .resident = resident()};
    all.each([&](slow_client& c) { c.begin({.command = command::read, .length = length}); });
    measured m;
    const auto fit = std::min(clients, for_requests(limits) / length);
    std::ignore = all.pump_until([&] {
        m.holding = all.count([](const slow_client& c) { return c.has_something_to_receive(); });
        return m.holding >= fit;
    });
    m.measure(before);
    all.each([&](slow_client& c) { c.finish(proto::simple_reply_bytes + length); });
    m.all_answered = all.pump_until_all_are_answered();
    return m;
}

/// Each client sends `each` BLOCK_STATUS requests and receives nothing yet.
template <class With>
measured slow_statuses(const nbd::settings& limits, std::size_t clients, std::size_t each)
{
    const std::size_t length = limits.extents_per_reply * fragment;
    served_memory<With> s{limits, length};
    slow_clients all{s.server, clients, true};
    const measured before{.heap = heap_in_use(), .resident = resident()};
    all.each([&](slow_client& c) {
        c.begin({.command = command::block_status, .length = length}, 0, each);
    });
    measured m;
    std::ignore = all.pump_until([&, heap = std::size_t{0}]() mutable {
        m.holding = all.count([](const slow_client& c) { return c.has_something_to_receive(); });
        return m.holding != 0 && std::exchange(heap, heap_in_use()) == heap;
    });
    m.measure(before);
    const auto reply = proto::structured_chunk_bytes + 4 + 8 * limits.extents_per_reply;
    all.each([&](slow_client& c) { c.finish(each * reply); });
    m.all_answered = all.pump_until_all_are_answered();
    return m;
}

}  // namespace

#define ALL_LOOPS                                                                                  \
    (with_disk<in_order_disk, nbd::per_client_threads>),                                           \
        (with_disk<in_order_disk, nbd::strand_pool>),                                              \
        (with_disk<awaited_zeroes, nbd::strand_pool>),                                             \
        (with_disk<awaited_zeroes, nbd::per_client_threads>),                                      \
        (with_disk<offloaded_disk, nbd::strand_pool>)

TEMPLATE_TEST_CASE("memory: slow writers hold no more than server_memory, and all are served", "",
                   ALL_LOOPS)
{
    constexpr std::size_t length = std::size_t{4} << 20;
    const auto limits = limited_to(std::size_t{32} << 20);
    const auto m = slow_writers<TestType>(limits, 20, length);
    CHECK(m.holding == for_requests(limits) / length);
    CHECK(m.heap >= m.holding * length);
    CHECK(m.heap <= limits.server_memory);
    CHECK(m.all_answered);
}

TEMPLATE_TEST_CASE("memory: slow readers hold no more than server_memory, and all are served", "",
                   ALL_LOOPS)
{
    constexpr std::size_t length = std::size_t{4} << 20;
    const auto limits = limited_to(std::size_t{32} << 20);
    const auto m = slow_readers<TestType>(limits, 20, length);
    CHECK(m.holding == for_requests(limits) / length);
    CHECK(m.heap >= m.holding * length);
    CHECK(m.heap <= limits.server_memory);
    CHECK(m.all_answered);
}

TEMPLATE_TEST_CASE("memory: BLOCK_STATUS of a fragmented disk holds no more than server_memory", "",
                   ALL_LOOPS)
{
    const auto limits = limited_to(std::size_t{32} << 20);
#if NBD_TEST_TSAN
    const auto m = slow_statuses<TestType>(limits, 4, 4);  // with 20 clients it takes minutes
#else
    const auto m = slow_statuses<TestType>(limits, 20, 16);
    // One reply is prepared at a time, with much memory; unsent replies have 1 MiB each.
    CHECK(m.heap >= for_requests(limits) / 8);
#endif
    CHECK(m.heap <= limits.server_memory);
    CHECK(m.all_answered);
}

TEMPLATE_TEST_CASE("memory: stop() ends a wait for memory at once", "", ALL_LOOPS)
{
    auto limits = limited_to(std::size_t{4} << 20);  // 3 MiB for requests
    limits.stop_grace = std::chrono::milliseconds::max();
    constexpr std::size_t length = std::size_t{2} << 20;
    served_memory<TestType> s{limits, length};
    slow_clients all{s.server, 3, false};
    all.each([&](slow_client& c) { c.begin({.command = command::write, .length = length}, 1); });
    REQUIRE(all.pump_until([&] { return all.count(has_sent_all) == 1; }));
    s.server.stop();
    CHECK(s.departures.await_departures(3));
}

TEMPLATE_TEST_CASE("memory: a client that disconnects while it waits for memory is noticed", "",
                   ALL_LOOPS)
{
    const auto limits = limited_to(std::size_t{4} << 20);
    constexpr std::size_t length = std::size_t{2} << 20;
    served_memory<TestType> s{limits, length};
    slow_clients all{s.server, 1, false};
    const auto write = [&](slow_client& c) {
        c.begin({.command = command::write, .length = length}, 1);
    };
    all.each(write);
    REQUIRE(all.pump_until([&] { return all.count(has_sent_all) == 1; }));
    {
        slow_clients other{s.server, 1, false};
        other.each(write);
        REQUIRE(other.pump_until([] { return true; }));
        REQUIRE(other.count(has_sent_all) == 0);
    }
    CHECK(s.departures.await_departures(1));
    all.each([](slow_client& c) { c.finish(proto::simple_reply_bytes); });
    CHECK(all.pump_until_all_are_answered());
}

TEMPLATE_TEST_CASE("memory: a stalled client gives way only when another one waits", "", ALL_LOOPS)
{
    auto limits = limited_to(std::size_t{16} << 20);  // 12 MiB for requests
    limits.stall_grace = std::chrono::milliseconds{1};
    constexpr std::size_t length = std::size_t{4} << 20;
    const bool reads = GENERATE(false, true);
    served_memory<TestType> s{limits, length};
    slow_clients stalled{s.server, 3, false};
    stalled.each([&](slow_client& c) {
        c.begin({.command = reads ? command::read : command::write, .length = length}, !reads);
    });
    REQUIRE(stalled.pump_until([&] {
        return stalled.count([&](const slow_client& c) {
            return reads ? c.has_something_to_receive() : c.has_sent_all();
        }) == 3;
    }));
    CHECK(s.departures.evicted() == 0);
    slow_clients good{s.server, 1, false};
    good.each([&](slow_client& c) {
        c.begin({.command = command::write, .length = length});
        c.finish(proto::simple_reply_bytes);
    });
    CHECK(good.pump_until_all_are_answered());
    CHECK(s.departures.await_departures(1));
    CHECK(s.departures.evicted() == 1);
}

TEMPLATE_TEST_CASE("memory: clients that stop are kept while nobody needs their memory, and finish",
                   "", (with_disk<in_order_disk, nbd::per_client_threads>),
                   (with_disk<awaited_zeroes, nbd::strand_pool>))
{
    nbd::settings limits;
    limits.stall_grace = std::chrono::milliseconds{1};
    constexpr std::size_t length = std::size_t{16} << 20;
    served_memory<TestType> s{limits, length};
    slow_clients readers{s.server, 2, false};
    slow_clients writers{s.server, 2, false};
    readers.each([&](slow_client& c) { c.begin({.command = command::read, .length = length}); });
    writers.each(
        [&](slow_client& c) { c.begin({.command = command::write, .length = length}, 1); });
    REQUIRE(readers.pump_until([&] {
        return readers.count([](const auto& c) { return c.has_something_to_receive(); }) == 2;
    }));
    REQUIRE(writers.pump_until([&] { return writers.count(has_sent_all) == 2; }));
    // Longer than the grace. Others are served meanwhile.
    raw_client other = connect(s.server);
    other.go("disk");
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{1};
    while (std::chrono::steady_clock::now() < end)
        REQUIRE(other.read(0, 512));
    CHECK_FALSE(s.departures.has_departed(1));
    readers.each([&](slow_client& c) { c.finish(proto::simple_reply_bytes + length); });
    writers.each([](slow_client& c) { c.finish(proto::simple_reply_bytes); });
    CHECK(readers.pump_until_all_are_answered());
    CHECK(writers.pump_until_all_are_answered());
}

TEMPLATE_TEST_CASE("memory: a request that never fits is refused, and the stream stays in step", "",
                   ALL_LOOPS)
{
    auto limits = limited_to(0);
    limits.client_memory = std::size_t{2} << 20;  // 1.5 MiB for requests
    constexpr std::size_t length = std::size_t{2} << 20;
    served_memory<TestType> s{limits, length};
    raw_client c = connect(s.server);
    c.go("disk");
    CHECK(c.request(command::read, 0, length) == proto::error_value::enomem);
    CHECK(c.write(0, bytes(length)) == proto::error_value::enomem);
    CHECK(c.write(0, bytes(length / 2)) == proto::error_value::none);
    CHECK(c.read(0, length / 2) == bytes(length / 2));
}

TEMPLATE_TEST_CASE("memory: clients that always have requests in flight leave memory to others", "",
                   ALL_LOOPS)
{
    const auto limits = limited_to(1);  // working memory for one client
    served_memory<TestType> s{limits, std::size_t{1} << 20};
    std::atomic<bool> enough = false;
    const auto await = [](const std::atomic<int>& answers, int n) {
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{60};
        while (answers.load() < n && std::chrono::steady_clock::now() < end)
            std::this_thread::yield();
        return answers.load() >= n;
    };
    // Always four READs, and the beginning of the fifth.
    const auto load = [&](std::atomic<int>& answers) {
        raw_client c = connect(s.server);
        c.go("disk");
        bytes one;
        raw_client::append(one, {.length = 4096});
        bytes all;
        for (int i = 0; i < 5; ++i)
            all.insert(all.end(), one.begin(), one.end());
        all.resize(all.size() - one.size() + 1);
        c.send(all);
        std::rotate(one.begin(), one.begin() + 1, one.end());
        bytes reply(proto::simple_reply_bytes + 4096);
        for (; !enough; ++answers) {
            c.receive(reply);
            c.send(one);
        }
    };
    std::atomic<int> first_answers = 0;
    std::atomic<int> second_answers = 0;
    std::thread first{[&] { load(first_answers); }};
    CHECK(await(first_answers, 20));
    std::thread second{[&] { load(second_answers); }};
    CHECK(await(second_answers, 20));
    CHECK(await(first_answers, first_answers + 20));
    enough = true;
    first.join();
    second.join();
}

TEMPLATE_TEST_CASE("memory: single bytes do not extend the time limit of a request", "", ALL_LOOPS)
{
    nbd::settings limits;
    limits.progress_timeout = std::chrono::milliseconds{500};
    constexpr std::size_t length = std::size_t{2} << 20;
    served_memory<TestType> s{limits, length};
    raw_client c = connect(s.server);
    c.go("disk");
    bytes message;
    raw_client::append(message, {.command = command::write, .length = length}, bytes(100));
    c.send(message);
    std::thread drips{[&] {
        try {
            for (int i = 0; i < 600 && !s.departures.has_departed(1); ++i) {
                c.send(bytes(1));
                std::this_thread::sleep_for(std::chrono::milliseconds{100});
            }
        } catch (const std::exception&) {  // the connection is closed
        }
    }};
    CHECK(s.departures.await_departures(1));
    drips.join();
}

TEMPLATE_TEST_CASE("memory: measures the default limits", "[.][memory-table]",
                   (with_disk<in_order_disk, nbd::per_client_threads>),
                   (with_disk<awaited_zeroes, nbd::strand_pool>))
{
    const auto limits = limited_to(nbd::settings{}.server_memory);
    const auto mib = [](std::size_t n) { return static_cast<double>(n) / (1 << 20); };
    const auto row = [&](const char* what, const measured& m) {
        std::printf("| %-44s | %6.0f | %6.0f | %6.0f | %7zu | %s |\n", what,
                    mib(limits.server_memory), mib(m.heap), mib(m.resident), m.holding,
                    m.all_answered ? "yes" : "no");
        std::fflush(stdout);
        CHECK(m.heap <= limits.server_memory);
        CHECK(m.all_answered);
    };
    std::puts(TestType::name);
    std::puts(
        "|                                              | budget |   heap |    RSS | holding | "
        "all answered |");
    row("100 WRITEs of 32 MiB less one byte", slow_writers<TestType>(limits, 100, 32 << 20));
    row("100 READs of 32 MiB, not received", slow_readers<TestType>(limits, 100, 32 << 20));
    row("1,000 BLOCK_STATUS of 131,072 extents", slow_statuses<TestType>(limits, 100, 10));
}
