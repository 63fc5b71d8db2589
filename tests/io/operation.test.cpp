// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/io/operation.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <memory>
#include <new>
#include <optional>
#include <utility>

namespace asio = boost::asio;
using executor = asio::io_context::executor_type;
using task = asio::awaitable<void, executor>;

TEST_CASE("io/operation: its result is the error code and the values of the operation")
{
    asio::io_context context;
    bool over = false;
    const auto run = [&]() -> task {
        const auto [error, n] = co_await nbd::io::make_operation<std::size_t>([&](auto handler) {
            asio::post(context,
                       [h = std::move(handler)]() mutable { h(asio::error::eof, std::size_t{7}); });
        });
        CHECK(error == asio::error::eof);
        CHECK(n == 7);
        over = true;
    };
    asio::co_spawn(context, run(), asio::detached);
    context.run();
    CHECK(over);
}

TEST_CASE("io/operation: an initiation that throws is an error, and the coroutine goes on")
{
    asio::io_context context;
    int ended = 0;
    const auto run = [&]() -> task {
        // Before and after Asio has taken the handler.
        for (const bool taken : {false, true}) {
            const auto [error] = co_await nbd::io::make_operation([&](auto handler) {
                std::optional<decltype(handler)> mine;
                if (taken)
                    mine.emplace(std::move(handler));
                throw std::bad_alloc{};
            });
            CHECK(error == asio::error::no_memory);
        }
        const auto [error] = co_await nbd::io::make_operation(
            [&](auto handler) { asio::post(context, std::move(handler)); });
        CHECK_FALSE(error);
        ++ended;
    };
    asio::co_spawn(context, run(), [&](const std::exception_ptr& e) {
        CHECK(e == nullptr);
        ++ended;
    });
    context.run();
    CHECK(ended == 2);
}

TEST_CASE("io/operation: the coroutine is destroyed with the context, in an operation or in none")
{
    const auto alive = std::make_shared<int>(0);
    {
        asio::io_context context;
        const auto run = [](asio::io_context& on, std::shared_ptr<int>) -> task {
            asio::steady_timer timer{on, std::chrono::hours{1}};
            std::ignore = co_await nbd::io::make_operation(
                [&](auto handler) { timer.async_wait(std::move(handler)); });
        };
        asio::co_spawn(context, run(context, alive), asio::detached);
        context.poll();
        CHECK(alive.use_count() == 2);
    }
    CHECK(alive.use_count() == 1);
}
