// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "grid/allocation_count.hpp"
#include <nbd/io/handoff.hpp>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>

#include <array>
#include <atomic>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace asio = boost::asio;
using context_executor = asio::io_context::executor_type;

namespace {

struct item {
    int value = 0;
    item* next = nullptr;
};
using handoff = nbd::io::handoff<context_executor, item>;

std::vector<int> values(const item* first)
{
    std::vector<int> all;
    for (; first != nullptr; first = first->next)
        all.push_back(first->value);
    return all;
}

}  // namespace

TEST_CASE("io/handoff: items are received together, in order")
{
    asio::io_context context;
    handoff box{context.get_executor()};
    std::array<item, 4> items{{{1}, {2}, {3}, {4}}};
    std::vector<std::vector<int>> received;
    const auto receive = [&](item* first) { received.push_back(values(first)); };
    box.put(items[0], receive);
    box.put(items[1], receive);
    box.put(items[2], receive);
    CHECK(received.empty());  // not inside put()
    CHECK(context.poll() == 1);
    REQUIRE(received.size() == 1);
    CHECK(received[0] == std::vector{1, 2, 3});

    // Again, with an item that was used before.
    box.put(items[3], receive);
    box.put(items[0], receive);
    context.restart();
    CHECK(context.poll() == 1);
    REQUIRE(received.size() == 2);
    CHECK(received[1] == std::vector{4, 1});
}

TEST_CASE("io/handoff: items that are put while others are received come next")
{
    asio::io_context context;
    handoff box{context.get_executor()};
    std::array<item, 3> items{{{1}, {2}, {3}}};
    std::vector<std::vector<int>> received;
    const auto receive = [&](item* first) { received.push_back(values(first)); };
    box.put(items[0], [&](item* first) {
        receive(first);
        box.put(items[1], receive);
        box.put(items[2], receive);
        CHECK(received.size() == 1);
    });
    context.poll();
    CHECK(received == std::vector<std::vector<int>>{{1}, {2, 3}});
}

TEST_CASE("io/handoff: it may be destroyed by the receiver")
{
    asio::io_context context;
    std::optional<handoff> box{std::in_place, context.get_executor()};
    item only{1};
    int got = 0;
    box->put(only, [&](item* first) {
        box.reset();
        got = first->value;
    });
    context.poll();
    CHECK(got == 1);
}

TEST_CASE("io/handoff: items from many threads are all received, in the order of each thread")
{
    constexpr int threads = 4;
    constexpr int each = 5000;
    asio::io_context context{1};
    auto stay = std::make_optional(asio::make_work_guard(context));
    handoff box{context.get_executor()};
    std::vector<std::vector<item>> items(threads);
    std::array<int, threads> seen{};
    int total = 0;
    bool in_order = true;
    bool at_home = true;
    const auto home = std::this_thread::get_id();
    const auto receive = [&](item* first) {
        at_home = at_home && std::this_thread::get_id() == home;
        REQUIRE(first != nullptr);
        while (first != nullptr) {
            const auto value = std::exchange(first, first->next)->value;
            auto& last = seen[static_cast<std::size_t>(value / each)];
            in_order = in_order && value % each == last;
            ++last;
            if (++total == threads * each)
                stay.reset();
        }
    };
    std::vector<std::thread> putting;
    for (int t = 0; t < threads; ++t) {
        auto& own = items[static_cast<std::size_t>(t)];
        for (int i = 0; i < each; ++i)
            own.push_back({t * each + i});
        putting.emplace_back([&own, &box, &receive] {
            for (auto& i : own)
                box.put(i, receive);
        });
    }
    context.run_for(std::chrono::seconds{60});
    for (auto& t : putting)
        t.join();
    CHECK(total == threads * each);
    CHECK(in_order);
    CHECK(at_home);
}

TEST_CASE("io/handoff: an owner that the receiver destroys is not touched afterwards")
{
    // The putting thread may still be inside put() while another one receives the item.
    asio::io_context context;
    auto stay = asio::make_work_guard(context);
    std::thread receiving{[&context] { context.run(); }};
    for (int round = 0; round < 2000; ++round) {
        struct owner {
            explicit owner(const context_executor& e) : box{e} {}
            handoff box;
            item only{7};
        };
        auto* const one = new owner{context.get_executor()};
        one->box.put(one->only, [one](item*) { delete one; });
    }
    stay.reset();
    receiving.join();
    SUCCEED("nothing was touched");
}

TEST_CASE("io/handoff: put() allocates nothing")
{
    asio::io_context context;
    handoff box{context.get_executor()};
    item only;
    int got = 0;
    const auto receive = [&got](item*) { ++got; };
    const auto once = [&] {
        box.put(only, receive);
        context.restart();
        context.poll();
    };
    once();
    const auto before = grid::allocations();
    for (int i = 0; i < 100; ++i)
        once();
    const auto after = grid::allocations();
    CHECK(got == 101);
    CHECK(after == before);
}

TEST_CASE("io/handoff: on a strand with many threads, one receiver runs at a time")
{
    using strand = asio::strand<context_executor>;
    asio::io_context context;
    nbd::io::handoff<strand, item> box{asio::make_strand(context.get_executor())};
    std::vector<item> items(4000);
    std::atomic<int> inside{0};
    std::atomic<bool> alone{true};
    int total = 0;  // the strand guards it
    const auto receive = [&](item* first) {
        if (inside.fetch_add(1) != 0)
            alone = false;
        for (; first != nullptr; first = first->next)
            ++total;
        inside.fetch_sub(1);
    };
    {
        auto stay = asio::make_work_guard(context);
        std::thread one{[&context] { context.run(); }};
        std::thread two{[&context] { context.run(); }};
        for (auto& i : items)
            box.put(i, receive);
        stay.reset();
        one.join();
        two.join();
    }
    CHECK(total == 4000);
    CHECK(alone);
}
