// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/vocabulary/completion.hpp>

#include <boost/asio/error.hpp>
#include <boost/system/error_code.hpp>

#include <optional>
#include <type_traits>
#include <vector>

using nbd::completion;
using nbd::failure;

static_assert(std::is_nothrow_move_constructible_v<completion>
              && !std::is_copy_constructible_v<completion>);
static_assert(sizeof(completion) == sizeof(void*));

namespace {
struct listening : completion::receiver {
    listening() noexcept
        : receiver{[](receiver& r, failure&& f) noexcept {
              static_cast<listening&>(r).heard.push_back(std::move(f));
          }}
    {
    }
    std::vector<failure> heard;
};
}  // namespace

TEST_CASE("vocabulary/completion: the outcome of a call arrives once")
{
    listening to;
    completion done{to};
    completion moved{std::move(done)};
    done();
    CHECK(to.heard.empty());
    SECTION("success")
    {
        moved();
        REQUIRE(to.heard.size() == 1);
        CHECK_FALSE(to.heard[0]);
    }
    SECTION("an error code of either library")
    {
        moved(boost::system::error_code{boost::asio::error::broken_pipe});
        REQUIRE(to.heard.size() == 1);
        CHECK(to.heard[0] == std::errc::broken_pipe);
    }
    SECTION("a failure with its text")
    {
        moved(failure{std::make_error_code(std::errc::io_error), "on fire", 7});
        REQUIRE(to.heard.size() == 1);
        CHECK(to.heard[0].text == "on fire");
    }
    moved(std::make_error_code(std::errc::io_error));
    CHECK(to.heard.size() == 1);
}

TEST_CASE("vocabulary/completion: a completion that is destroyed without a call is EIO")
{
    listening to;
    {
        const completion done{to};
    }
    REQUIRE(to.heard.size() == 1);
    CHECK(to.heard[0] == std::errc::io_error);
    listening other;
    {
        completion one{to};
        completion two{other};
        one = std::move(two);
        one();
    }
    REQUIRE(other.heard.size() == 1);
    CHECK_FALSE(other.heard[0]);
    REQUIRE(to.heard.size() == 2);
    CHECK(to.heard[1] == std::errc::io_error);
}

TEST_CASE("vocabulary/completion: it passes through an interface in C")
{
    listening to;
    void* argument = nullptr;
    {
        completion done{to};
        argument = done.release();
    }
    CHECK(to.heard.empty());
    completion::adopt(argument)();
    REQUIRE(to.heard.size() == 1);
    CHECK_FALSE(to.heard[0]);
}
