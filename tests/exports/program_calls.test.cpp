// SPDX-License-Identifier: MIT
// Functions of a program with their type erased: ready or awaited, here or on an executor.
#include "catch.hpp"
#include <nbd/exports/program_calls.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

namespace {

namespace asio = boost::asio;
using disk = int;
using shared_disk = std::shared_ptr<disk>;
using found = nbd::found_export<disk>;
using context_executor = asio::io_context::executor_type;
template <class Executor>
using timer = asio::basic_waitable_timer<std::chrono::steady_clock,
                                         asio::wait_traits<std::chrono::steady_clock>, Executor>;

struct waits : nbd::exports::answer<found> {
    int completed = 0;
    waits()
    {
        complete = [](nbd::exports::answer<found>& a) noexcept {
            ++static_cast<waits&>(a).completed;
        };
    }
};

template <class F>
auto erased(F f)
{
    static_assert(nbd::exports::looks_up<F, disk>);
    return nbd::exports::erased<found, std::string_view, const nbd::client&>(std::move(f));
}
const nbd::client somebody{.id = 7, .peer = "somebody"};
const asio::any_io_executor here{};

shared_disk length_of(std::string_view name)
{
    return name.empty() ? nullptr : std::make_shared<disk>(static_cast<int>(name.size()));
}

/// Waits a moment, then looks up.
template <class Executor>
auto slow_lookup(int& called)
{
    return [&called](std::string_view name,
                     const nbd::client& who) -> asio::awaitable<found, Executor> {
        timer<Executor> pause{co_await asio::this_coro::executor, std::chrono::milliseconds{1}};
        co_await pause.async_wait(asio::use_awaitable_t<Executor>{});
        ++called;
        if (name == "ill")
            throw std::system_error{std::make_error_code(std::errc::permission_denied), "a text"};
        co_return found{length_of(name), {.description = who.peer, .read_only = true}};
    };
}

}  // namespace

TEST_CASE("program_calls: a ready function completes at once")
{
    waits got;
    erased([](std::string_view name, const nbd::client&) { return length_of(name); })(
        here, got, "four", somebody);
    CHECK(got.completed == 1);
    CHECK_FALSE(got.why);
    CHECK(*got.result.backend == 4);
    CHECK(got.result.settings == nbd::export_settings{});

    waits with_settings;
    erased([](std::string_view name, const nbd::client& who) {
        return found{length_of(name), {.description = who.peer}};
    })(here, with_settings, "", somebody);
    CHECK(with_settings.completed == 1);
    CHECK(with_settings.result.backend == nullptr);
    CHECK(with_settings.result.settings.description == "somebody");

    waits failed;
    erased([](std::string_view, const nbd::client&) -> shared_disk {
        throw std::runtime_error{"a text"};
    })(here, failed, "x", somebody);
    CHECK(failed.completed == 1);
    CHECK(failed.why == std::errc::io_error);
    CHECK(failed.why.message() == "a text");
}

TEST_CASE("program_calls: a function that cannot be copied")
{
    waits got;
    erased([owned = std::make_unique<int>(3)](std::string_view, const nbd::client&) {
        return std::make_shared<disk>(*owned);
    })(here, got, "x", somebody);
    CHECK(*got.result.backend == 3);
}

TEMPLATE_TEST_CASE("program_calls: an awaited function runs on the calling thread, which waits", "",
                   asio::any_io_executor, context_executor)
{
    int called = 0;
    const auto f = erased(slow_lookup<TestType>(called));
    waits got;
    f(here, got, "three", somebody);
    CHECK(called == 1);
    CHECK(got.completed == 1);
    CHECK(*got.result.backend == 5);
    CHECK(got.result.settings.read_only);
    waits none;
    f(here, none, "", somebody);
    CHECK_FALSE(none.why);
    CHECK(none.result.backend == nullptr);
    waits ill;
    f(here, ill, "ill", somebody);
    CHECK(ill.completed == 1);
    CHECK(ill.why == std::errc::permission_denied);
}

TEMPLATE_TEST_CASE("program_calls: an awaited function runs on an executor", "",
                   asio::any_io_executor, context_executor)
{
    asio::io_context context;
    int called = 0;
    const auto f = erased(slow_lookup<TestType>(called));
    waits got;
    waits ill;
    f(context.get_executor(), got, "three", somebody);
    f(context.get_executor(), ill, "ill", somebody);
    CHECK(got.completed + ill.completed == 0);
    context.run();
    CHECK(got.completed == 1);
    CHECK(*got.result.backend == 5);
    CHECK(ill.why == std::errc::permission_denied);
}

TEST_CASE("program_calls: what an awaited function leaves behind delays nobody")
{
    bool left = false;
    waits got;
    const auto f = erased([&](std::string_view, const nbd::client&) -> asio::awaitable<found> {
        asio::co_spawn(
            co_await asio::this_coro::executor,
            [&left]() -> asio::awaitable<void> {
                const std::shared_ptr<void> end{nullptr, [&left](void*) { left = true; }};
                asio::steady_timer long_wait{co_await asio::this_coro::executor,
                                             std::chrono::hours{1}};
                co_await long_wait.async_wait(asio::use_awaitable);
            },
            asio::detached);
        co_await asio::post(asio::use_awaitable);
        co_return found{std::make_shared<disk>(1), {}};
    });
    f(here, got, "x", somebody);
    CHECK(got.completed == 1);
    CHECK(*got.result.backend == 1);
    CHECK(left);
}

TEST_CASE("program_calls: another executor than that of the awaitable is an error with a text")
{
    asio::io_context context;
    int called = 0;
    using strand = asio::strand<context_executor>;
    waits got;
    erased(slow_lookup<strand>(called))(context.get_executor(), got, "x", somebody);
    waits blocking;
    erased(slow_lookup<strand>(called))(here, blocking, "x", somebody);
    for (const auto* w : {&got, &blocking}) {
        CHECK(w->completed == 1);
        CHECK(w->why == std::errc::invalid_argument);
        CHECK(w->why.message().find("awaited on an executor") != std::string::npos);
    }
    CHECK(called == 0);
}

TEST_CASE("program_calls: a call whose context is destroyed completes with an error")
{
    waits got;
    {
        asio::io_context context;
        int called = 0;
        erased(slow_lookup<context_executor>(called))(context.get_executor(), got, "x", somebody);
        context.poll();
        CHECK(got.completed == 0);
    }
    CHECK(got.completed == 1);
    CHECK(got.why);
}

TEST_CASE("program_calls: which functions are lookups and listings")
{
    using nbd::exports::lists;
    using nbd::exports::looks_up;
    const auto good = [](std::string_view, const nbd::client&) { return shared_disk{}; };
    const auto by_name = [](const std::string&) { return shared_disk{}; };
    const auto wrong = [](std::string_view, const nbd::client&) { return std::string{}; };
    const auto const_disk = [](std::string_view, const nbd::client&) {
        return std::shared_ptr<const disk>{};
    };
    STATIC_REQUIRE(looks_up<decltype(good), disk>);
    STATIC_REQUIRE_FALSE(looks_up<decltype(by_name), disk>);
    STATIC_REQUIRE_FALSE(looks_up<decltype(wrong), disk>);
    STATIC_REQUIRE_FALSE(looks_up<decltype(const_disk), disk>);
    const auto all = [](nbd::name_list&) {};
    const auto awaited = [](nbd::name_list&) -> asio::awaitable<void> { co_return; };
    const auto returns = [](nbd::name_list&) { return std::string{}; };
    const auto by_value = [](nbd::name_list) {};
    STATIC_REQUIRE(lists<decltype(all)>);
    STATIC_REQUIRE(lists<decltype(awaited)>);
    STATIC_REQUIRE_FALSE(lists<decltype(returns)>);
    STATIC_REQUIRE_FALSE(lists<decltype(by_value)>);
}
