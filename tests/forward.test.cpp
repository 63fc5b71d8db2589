// SPDX-License-Identifier: MIT
// A small layer, written once, over a backend that is synchronous, awaited, or read-only.
#include "catch.hpp"
#include <nbd/concepts/diagnosis.hpp>
#include <nbd/concepts/offers.hpp>
#include <nbd/forward.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>

namespace {

namespace asio = boost::asio;
using executor = asio::io_context::executor_type;
template <class T>
using task = asio::awaitable<T, executor>;

using u64 = std::uint64_t;
using to = std::span<std::byte>;
using from = std::span<const std::byte>;

/// Counts outcomes, stores every write at once, and has the optional members that Next has.
template <class Next>
class layer {
public:
    explicit layer(Next& next) : next_{next} {}

    u64 size() const { return next_.size(); }
    auto read(u64 offset, to data)
    {
        // `offset` and `data` are used before `read` returns.
        return nbd::then([&] { return next_.read(offset, data); },
                         [this](const nbd::failure& outcome) { ++(outcome ? failed : good); });
    }
    auto write(u64 offset, from data)
        requires(nbd::has_write<Next> && nbd::has_flush<Next>)
    {
        return nbd::then([&] { return next_.write(offset, data); },
                         [this] { return next_.flush(); });
    }
    auto flush()
        requires nbd::has_flush<Next>
    {
        return next_.flush();
    }
    auto trim(u64 offset, u64 length)
        requires nbd::has_trim<Next>
    {
        return nbd::then([&] { return next_.trim(offset, length); },
                         [](nbd::failure outcome) {
                             if (outcome)
                                 outcome.text = "trim: " + outcome.message();
                             return outcome;
                         });
    }

    int good = 0;
    int failed = 0;

private:
    Next& next_;
};

const auto no_space = std::make_error_code(std::errc::no_space_on_device);

struct read_only {
    u64 size() const { return 1 << 20; }
    void read(u64 offset, to)
    {
        if (offset == 13)
            throw std::runtime_error{"unlucky"};
    }
};
struct synchronous : read_only {
    std::error_code write(u64 offset, from)
    {
        ++writes;
        return offset == 13 ? no_space : std::error_code{};
    }
    void flush() { ++flushes; }
    std::errc trim(u64 offset, u64)
    {
        return offset == 13 ? std::errc::no_space_on_device : std::errc{};
    }
    int writes = 0;
    int flushes = 0;
};
struct awaited {
    u64 size() const { return 1 << 20; }
    task<void> read(u64 offset, to)
    {
        co_await asio::post(asio::use_awaitable_t<executor>{});
        if (offset == 13)
            throw std::runtime_error{"unlucky"};
    }
    task<std::error_code> write(u64 offset, from)
    {
        co_await asio::post(asio::use_awaitable_t<executor>{});
        ++writes;
        co_return offset == 13 ? no_space : std::error_code{};
    }
    task<void> flush()
    {
        co_await asio::post(asio::use_awaitable_t<executor>{});
        ++flushes;
    }
    task<nbd::failure> trim(u64 offset, u64)
    {
        co_return offset == 13 ? nbd::failure{no_space} : nbd::failure{};
    }
    int writes = 0;
    int flushes = 0;
};

/// The outcome of a call, as a failure.
nbd::failure settled(nbd::failure outcome)
{
    return outcome;
}
nbd::failure settled(task<nbd::failure> call)
{
    asio::io_context io{1};
    std::optional<nbd::failure> result;
    asio::co_spawn(io, std::move(call), [&](std::exception_ptr e, nbd::failure f) {
        CHECK(e == nullptr);
        result = std::move(f);
    });
    io.run();
    REQUIRE(result);
    return *result;
}

template <bool Writes>
struct optional_write : read_only {
    void write(u64, from)
        requires Writes
    {
    }
};

}  // namespace

TEST_CASE("forward: a layer has the members that Next has")
{
    using nbd::can;
    STATIC_REQUIRE(nbd::offers<layer<read_only>>);
    STATIC_REQUIRE(nbd::offers<layer<synchronous>, can::write, can::flush, can::trim>);
    STATIC_REQUIRE(nbd::offers<layer<awaited>, can::write, can::flush, can::trim>);
    STATIC_REQUIRE(nbd::offers<layer<layer<awaited>>, can::write, can::flush, can::trim>);
    STATIC_REQUIRE(nbd::asynchronous<layer<awaited>>);
    STATIC_REQUIRE_FALSE(nbd::asynchronous<layer<synchronous>>);
    STATIC_REQUIRE(nbd::offers<optional_write<false>>);
    STATIC_REQUIRE(nbd::offers<optional_write<true>, can::write>);
    // Nothing follows a flush, so it is what Next returns.
    STATIC_REQUIRE(std::is_void_v<decltype(std::declval<layer<synchronous>&>().flush())>);
    STATIC_REQUIRE(
        std::is_same_v<task<void>, decltype(std::declval<layer<layer<awaited>>&>().flush())>);
}

TEMPLATE_TEST_CASE("forward: one text for synchronous and awaited members", "", synchronous,
                   awaited)
{
    TestType disk;
    layer<TestType> once{disk};
    layer<layer<TestType>> twice{once};
    std::array<std::byte, 4> data{};

    CHECK_FALSE(settled(twice.read(0, data)));
    const auto thrown = settled(twice.read(13, data));
    CHECK(thrown == std::errc::io_error);
    CHECK(thrown.text == "unlucky");
    CHECK(thrown.thrown);
    CHECK(once.good == 1);
    CHECK(once.failed == 1);
    CHECK(twice.good == 1);
    CHECK(twice.failed == 1);

    CHECK_FALSE(settled(once.write(0, data)));
    CHECK(disk.flushes == 1);
    CHECK(settled(once.write(13, data)) == no_space);
    CHECK(disk.writes == 2);
    CHECK(disk.flushes == 1);  // not after a failure

    CHECK_FALSE(settled(once.trim(0, 4)));
    const auto failure = settled(twice.trim(13, 4));
    CHECK(failure == no_space);
    CHECK(failure.text == "trim: trim: " + no_space.message());
}

TEMPLATE_TEST_CASE("forward: an exception of the continuation is a failure", "", synchronous,
                   awaited)
{
    TestType disk;
    std::array<std::byte, 4> data{};
    const auto read = [&](auto continuation) {
        return settled(nbd::then([&] { return disk.read(0, data); }, std::move(continuation)));
    };
    CHECK(read([]() { throw std::bad_alloc{}; }) == std::errc::not_enough_memory);
    CHECK(read([](const nbd::failure&) { throw std::bad_alloc{}; })
          == std::errc::not_enough_memory);
    CHECK(read([] { return std::errc::no_space_on_device; }) == no_space);
    CHECK_FALSE(read([](const nbd::failure&) { return std::error_code{}; }));
}

TEST_CASE("forward: after an awaited member, an awaited continuation gets the failure")
{
    awaited disk;
    std::array<std::byte, 4> data{};
    const auto read = [&](u64 offset, auto continuation) {
        return settled(nbd::then([&] { return disk.read(offset, data); }, std::move(continuation)));
    };
    std::string seen;
    const auto recovers = [&](const nbd::failure& outcome) -> task<std::error_code> {
        co_await asio::post(asio::use_awaitable_t<executor>{});
        seen = outcome.text;
        co_return std::error_code{};
    };
    CHECK_FALSE(read(13, recovers));
    CHECK(seen == "unlucky");
    const auto only_looks = [&](const nbd::failure&) -> task<void> { co_return; };
    CHECK(read(13, only_looks) == std::errc::io_error);
    CHECK_FALSE(read(0, only_looks));
    const auto throws = [&]() -> task<void> {
        throw std::bad_alloc{};
        co_return;
    };
    CHECK(read(0, throws) == std::errc::not_enough_memory);
    CHECK(read(13, throws) == std::errc::io_error);
}
