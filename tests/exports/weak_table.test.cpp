// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/exports/weak_table.hpp>

#include <memory>
#include <string>
#include <tuple>
#include <vector>

TEST_CASE("weak_table: an object is shared by those who ask for its key while one has it")
{
    nbd::exports::weak_table<std::string, int> table;
    auto one = table.share("a", 1);
    CHECK(table.share("a", 2) == one);
    CHECK(*table.share("b", 3) == 3);
    one.reset();
    CHECK(*table.share("a", 4) == 4);
}

TEST_CASE("weak_table: a key is taken once")
{
    nbd::exports::weak_table<std::string, int> table;
    const auto one = table.share("a", 1);
    CHECK(table.take("b") == nullptr);
    CHECK(table.take("a") == one);
    CHECK(table.take("a") == nullptr);
    CHECK(table.share("a", 2) != one);
    std::ignore = table.share("gone", 3);
    CHECK(table.take("gone") == nullptr);
}

TEST_CASE("weak_table: keys whose object is destroyed are forgotten")
{
    nbd::exports::weak_table<int, int> table;
    std::vector<std::shared_ptr<int>> kept;
    for (int i = 0; i < 100; ++i)
        kept.push_back(table.share(i, i));
    for (int i = 100; i < 10'000; ++i)
        std::ignore = table.share(i, i);
    CHECK(table.size() < 500);
    for (int i = 0; i < 100; ++i)
        CHECK(table.share(i, 0) == kept[static_cast<std::size_t>(i)]);
}
