// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/io/async_event.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/this_coro.hpp>

#include <exception>
#include <memory>
#include <string>

namespace asio = boost::asio;

namespace {

using executor = asio::io_context::executor_type;
template <class T>
using task = asio::awaitable<T, executor>;
using event_type = nbd::io::async_event<executor>;

/// Waits for an event repeatedly, and records each resumption.
struct waiting {
    asio::io_context context{1};
    event_type event;
    std::string story;
    bool over = false;

    explicit waiting(int times)
    {
        asio::co_spawn(context, wait(times), [this](std::exception_ptr thrown) {
            CHECK(thrown == nullptr);
            over = true;
        });
        context.poll();
        context.restart();
    }
    task<void> wait(int times)
    {
        for (; times != 0; --times) {
            co_await event.wait();
            story += 'w';
        }
    }
    void turn()
    {
        context.poll();
        context.restart();
    }
};

}  // namespace

TEST_CASE("io/async_event: notify() resumes the waiting coroutine after the caller's handler")
{
    waiting w{1};
    CHECK(w.story.empty());
    asio::post(w.context, [&w] {
        w.event.notify();
        w.story += 'c';
    });
    w.turn();
    CHECK(w.story == "cw");
    CHECK(w.over);
}

TEST_CASE("io/async_event: notify_now() resumes the waiting coroutine at once, until its next wait")
{
    waiting w{2};
    asio::post(w.context, [&w] {
        w.event.notify_now();
        w.story += 'c';
        w.event.notify_now();
        w.story += 'c';
    });
    w.turn();
    CHECK(w.story == "wcwc");
    CHECK(w.over);
}

TEST_CASE("io/async_event: repeated calls during one wait end only that wait")
{
    waiting w{2};
    w.event.notify();
    w.event.notify();
    w.event.notify_now();
    CHECK(w.story.empty());
    w.turn();
    CHECK(w.story == "w");
    CHECK_FALSE(w.over);
    w.event.notify();
    w.turn();
    CHECK(w.story == "ww");
    CHECK(w.over);
}

TEST_CASE("io/async_event: a call without a wait has no effect")
{
    waiting w{0};
    w.event.notify();
    w.event.notify_now();
    asio::co_spawn(w.context, w.wait(1), [&](std::exception_ptr) { w.story += '.'; });
    w.turn();
    CHECK(w.story.empty());
    w.event.notify();
    w.turn();
    CHECK(w.story == "w.");
}

TEST_CASE("io/async_event: a resumed coroutine may notify the event that it waited for")
{
    asio::io_context context{1};
    event_type event;
    int turns = 0;
    const auto wait = [&]() -> task<void> {
        co_await event.wait();
        event.notify();  // no effect without a wait
        ++turns;
        co_await event.wait();
        ++turns;
    };
    asio::co_spawn(context, wait(), [](std::exception_ptr) {});
    context.poll();
    event.notify_now();
    CHECK(turns == 1);
    event.notify();
    context.restart();
    context.poll();
    CHECK(turns == 2);
}

TEST_CASE("io/async_event: the coroutine resumes on its own strand")
{
    using strand = asio::strand<executor>;
    asio::io_context context{1};
    const auto own = asio::make_strand(context.get_executor());
    nbd::io::async_event<strand> event;
    bool there = false;
    const auto wait = [&]() -> asio::awaitable<void, strand> {
        co_await event.wait();
        there = own.running_in_this_thread();
    };
    asio::co_spawn(own, wait(), [](std::exception_ptr) {});
    context.poll();
    context.restart();
    event.notify();  // not on the strand
    context.poll();
    CHECK(there);
}

TEST_CASE("io/async_event: a waiting coroutine is destroyed with its context and does not resume")
{
    const auto held = std::make_shared<int>(1);
    bool went_on = false;
    {
        asio::io_context context{1};
        event_type event;
        const auto wait = [&event, &went_on](std::shared_ptr<int> mine) -> task<void> {
            co_await event.wait();
            went_on = true;
            *mine = 2;
        };
        asio::co_spawn(context, wait(held), [](std::exception_ptr) {});
        context.poll();
        CHECK(held.use_count() == 2);
    }
    CHECK(held.use_count() == 1);
    CHECK_FALSE(went_on);
}

TEST_CASE(
    "io/async_event: the waiter is destroyed with the context, before or after a notification")
{
    const auto alive = std::make_shared<int>(0);
    const bool notified = GENERATE(false, true);
    {
        asio::io_context context{1};
        const auto wait = [](std::shared_ptr<int>) -> task<void> {
            event_type own;
            asio::post(co_await asio::this_coro::executor, [] {});
            co_await own.wait_after([&] { own.notify(); });
        };
        event_type event;
        const auto wait_for = [&](std::shared_ptr<int>) -> task<void> { co_await event.wait(); };
        if (notified)
            asio::co_spawn(context, wait(alive), [](std::exception_ptr) {});
        else
            asio::co_spawn(context, wait_for(alive), [](std::exception_ptr) {});
        CHECK(alive.use_count() == 2);
        context.run_one();
    }
    CHECK(alive.use_count() == 1);
}
