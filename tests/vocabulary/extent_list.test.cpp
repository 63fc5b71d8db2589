// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/printed.hpp"
#include <nbd/vocabulary/extent_list.hpp>

#include <limits>
#include <vector>

using nbd::extent;
using nbd::extent_list;

namespace {
using extents = std::vector<extent>;
extents all(const extent_list& l)
{
    return {l.extents().begin(), l.extents().end()};
}
constexpr auto most = std::numeric_limits<std::uint64_t>::max();
}  // namespace

TEST_CASE("vocabulary/extent_list: extents are contiguous until the range is covered")
{
    extent_list l;
    l.begin(100, 10);
    CHECK(l.empty());
    CHECK(l.add(40, 0));
    CHECK(l.add(20, 3));
    CHECK_FALSE(l.add(40, 1));
    CHECK_FALSE(l.add(1, 2));
    CHECK(all(l) == extents{{40, 0}, {20, 3}, {40, 1}});
    CHECK_FALSE(l.empty());
}

TEST_CASE("vocabulary/extent_list: extents are cut at the end of the range (B12)")
{
    extent_list l;
    l.begin(100, 10);
    CHECK(l.add(99, 0));
    CHECK_FALSE(l.add(most, 3));
    CHECK(all(l) == extents{{99, 0}, {1, 3}});

    l.begin(100, 10);
    CHECK_FALSE(l.add(most, 0));
    CHECK_FALSE(l.add(most, 0));
    CHECK(all(l) == extents{{100, 0}});
}

TEST_CASE(
    "vocabulary/extent_list: an extent of length 0 is ignored and does not separate its neighbours")
{
    extent_list l;
    l.begin(100, 10);
    CHECK(l.add(0, 3));
    CHECK(l.empty());
    CHECK(l.add(10, 1));
    CHECK(l.add(0, 2));
    CHECK(l.add(10, 1));
    CHECK(all(l) == extents{{20, 1}});
}

TEST_CASE("vocabulary/extent_list: neighbours of the same status are merged (P66)")
{
    extent_list l;
    l.begin(std::uint64_t{1} << 62, 2);
    for (int i = 0; i < 1000; ++i)
        REQUIRE(l.add(1, 3));
    CHECK(l.add(5, most));
    CHECK(l.add(std::uint64_t{1} << 40, most));
    CHECK(all(l) == extents{{1000, 3}, {(std::uint64_t{1} << 40) + 5, most}});
}

TEST_CASE("vocabulary/extent_list: the number of extents is limited, but the last one may grow")
{
    extent_list l;
    l.begin(100, 2);
    CHECK(l.add(10, 0));
    CHECK(l.add(10, 1));
    CHECK(l.add(10, 1));
    CHECK_FALSE(l.add(10, 0));
    // extents after a refused one would be at the wrong place
    CHECK_FALSE(l.add(10, 1));
    CHECK(all(l) == extents{{10, 0}, {20, 1}});
}

TEST_CASE("vocabulary/extent_list: 2^20 extents use no more memory than the limit (B12)")
{
    extent_list l;
    l.begin(most, 131'072);
    std::size_t taken = 0;
    for (std::uint64_t i = 0; i < std::uint64_t{1} << 20 && l.add(1, i & 1); ++i)
        ++taken;
    CHECK(taken == 131'072);
    CHECK(l.extents().size() == 131'072);
}

TEST_CASE("vocabulary/extent_list: an empty range and a limit of 0 accept no extent")
{
    extent_list l;
    CHECK_FALSE(l.add(10, 0));
    CHECK(l.empty());
    l.begin(0, 10);
    CHECK_FALSE(l.add(10, 0));
    CHECK(l.empty());
    l.begin(10, 0);
    CHECK_FALSE(l.add(10, 0));
    CHECK(l.empty());
}

TEST_CASE("vocabulary/extent_list: begin() removes all extents")
{
    extent_list l;
    l.begin(10, 1);
    CHECK_FALSE(l.add(10, 7));
    l.begin(20, 1);
    CHECK(l.empty());
    CHECK(l.add(10, 7));
    CHECK(all(l) == extents{{10, 7}});
}

TEST_CASE("vocabulary/extent_list: memory above what is to be kept is freed")
{
    nbd::extent_list list;
    list.begin(100'000, 100'000);
    for (std::uint64_t i = 0; i < 100'000; ++i)
        list.add(1, i % 2);
    const auto* const before = list.extents().data();
    REQUIRE(before != nullptr);
    list.give_back(1'000'000);
    list.begin(1, 1);
    list.add(1, 0);
    CHECK(list.extents().data() == before);  // kept
    list.give_back(16);
    CHECK(list.extents().data() == nullptr);
}
