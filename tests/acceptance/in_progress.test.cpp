// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/acceptance/in_progress.hpp>

#include <memory>
#include <optional>
#include <utility>

using nbd::acceptance::in_progress;

TEST_CASE("acceptance/in_progress: the flag stands for as long as the holder lives")
{
    bool flag = false;
    {
        const in_progress holder{flag};
        CHECK(flag);
    }
    CHECK_FALSE(flag);
}

TEST_CASE("acceptance/in_progress: it moves with its handler, and ends once, with the last")
{
    bool flag = false;
    std::optional<in_progress> last;
    {
        in_progress first{flag};
        last.emplace(std::move(first));
    }
    CHECK(flag);
    last.reset();
    CHECK_FALSE(flag);
}

TEST_CASE("acceptance/in_progress: a handler that is destroyed without being called ends it too")
{
    bool flag = false;
    {
        auto handler = [held = in_progress{flag}] { return 1; };
        const auto kept = std::make_unique<decltype(handler)>(std::move(handler));
        CHECK(flag);
    }
    CHECK_FALSE(flag);
}
