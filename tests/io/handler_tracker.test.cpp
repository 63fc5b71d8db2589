// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/io/handler_tracker.hpp>

#include <optional>
#include <utility>

namespace {
struct counting : nbd::io::handler_tracker {
    int reports = 0;
    [[nodiscard]] mark begin()
    {
        return handler_tracker::begin(
            [](handler_tracker& t) { ++static_cast<counting&>(t).reports; });
    }
};
}  // namespace

TEST_CASE("io/handler_tracker: the destruction of the last owner of the mark is reported, once")
{
    counting t;
    CHECK_FALSE(t.active());
    {
        auto first = t.begin();
        CHECK(t.active());
        {
            auto second = std::move(first);
            CHECK(t.active());
        }
        CHECK(t.reports == 1);
        CHECK_FALSE(t.active());
    }
    CHECK(t.reports == 1);
}

TEST_CASE("io/handler_tracker: a mark that was released reports nothing")
{
    counting t;
    auto mark = t.begin();
    CHECK(mark.release() == &t);
    CHECK(mark.release() == nullptr);
    CHECK_FALSE(t.active());
    {
        const auto gone = std::move(mark);
    }
    CHECK(t.reports == 0);
}

TEST_CASE("io/handler_tracker: the tracker may be destroyed before its mark")
{
    std::optional<counting> t{std::in_place};
    auto mark = t->begin();
    t.reset();
    CHECK(mark.release() == nullptr);
}
