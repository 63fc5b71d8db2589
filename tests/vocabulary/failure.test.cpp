// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/concepts/outcome.hpp>
#include <nbd/vocabulary/failure.hpp>

#include <boost/system/error_code.hpp>

#include <type_traits>

using nbd::failure;

static_assert(std::is_convertible_v<std::error_code, failure>);
static_assert(std::is_convertible_v<boost::system::error_code, failure>);
static_assert(std::is_convertible_v<std::errc, failure>);
static_assert(nbd::outcome<std::errc>);
static_assert(!std::is_convertible_v<int, failure>);
static_assert(!std::is_convertible_v<failure, bool>);

namespace {
const auto eio = std::make_error_code(std::errc::io_error);

failure succeeds()
{
    return {};
}
failure fails()
{
    return eio;
}
}  // namespace

TEST_CASE("vocabulary/failure: a default failure and one of an empty error code are no failure")
{
    CHECK_FALSE(failure{});
    CHECK_FALSE(succeeds());
    CHECK_FALSE(failure{std::error_code{}});
    CHECK(failure{}.text.empty());
    CHECK_FALSE(failure{}.offset);
}

TEST_CASE("vocabulary/failure: an error code converts to a failure without a text")
{
    const auto f = fails();
    CHECK(f);
    CHECK(f.code == eio);
    CHECK(f.code == std::errc::io_error);
    CHECK(f.text.empty());
    CHECK_FALSE(f.offset);
    const failure of_errc = std::errc::io_error;
    CHECK(of_errc.code == eio);
    const failure with_text{std::errc::io_error, "no answer", 512};
    CHECK(with_text.code == eio);
    CHECK(with_text.text == "no answer");
    CHECK(with_text.offset == std::uint64_t{512});
    const failure of_boost = make_error_code(boost::system::errc::no_space_on_device);
    CHECK(of_boost.code == std::errc::no_space_on_device);
}

TEST_CASE("vocabulary/failure: a failure with a text and an offset")
{
    const failure told{eio, "the disk is on fire"};
    CHECK(told);
    CHECK(told.text == "the disk is on fire");
    CHECK_FALSE(told.offset);
    const failure placed{eio, "sector 8", 4096};
    CHECK(placed.offset == std::uint64_t{4096});
}
