// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/backend/huge_page_promoter.hpp>

#include <vector>

using nbd::huge_page_promoter;

namespace {

constexpr auto region = huge_page_promoter::region;
constexpr auto enough = huge_page_promoter::enough;

/// Counts reads and records proposed regions.
struct reader {
    explicit reader(std::uint64_t size) : heat{size} {}
    void read(std::uint64_t offset, std::uint64_t length)
    {
        heat.read(offset, length, [this](std::uint64_t at) {
            proposed.push_back(at);
            return settles;
        });
    }
    huge_page_promoter heat;
    bool settles = true;
    std::vector<std::uint64_t> proposed;
};
using list = std::vector<std::uint64_t>;

}  // namespace

TEST_CASE("backend/huge_page_promoter: a region is proposed once, when enough of it was read")
{
    reader r{4 * region};
    for (std::uint64_t read = 0; read < enough - 4096; read += 4096)
        r.read(region + read % region, 4096);
    CHECK(r.proposed.empty());
    r.read(2 * region - 4096, 4096);
    CHECK(r.proposed == list{region});
    for (std::uint64_t read = 0; read < 3 * std::uint64_t{enough}; read += region)
        r.read(region, region);
    CHECK(r.proposed == list{region});
}

TEST_CASE(
    "backend/huge_page_promoter: a read counts for each region that it touches, by its bytes there")
{
    reader r{4 * region};
    // the last 1 MiB of the first, all of the second, one byte of the third
    for (std::uint64_t i = 0; i < enough / region; ++i)
        r.read(region / 2, region / 2 + region + 1);
    CHECK(r.proposed == list{region});
    for (std::uint64_t i = 0; i < enough / region; ++i)
        r.read(region / 2, region / 2 + region + 1);
    CHECK(r.proposed == list{region, 0});
}

TEST_CASE("backend/huge_page_promoter: one read proposes at most one region")
{
    reader r{4 * region};
    for (std::uint64_t i = 0; i < enough / region; ++i)
        r.read(0, 3 * region);
    CHECK(r.proposed == list{0});
    r.read(0, 3 * region);
    CHECK(r.proposed == list{0, region});
    r.read(0, 3 * region);
    r.read(0, 3 * region);
    CHECK(r.proposed == list{0, region, 2 * region});
}

TEST_CASE("backend/huge_page_promoter: a region that was not settled is proposed again after as "
          "many bytes")
{
    reader r{region};
    r.settles = false;
    for (std::uint64_t i = 0; i < enough / region; ++i)
        r.read(0, region);
    REQUIRE(r.proposed.size() == 1);
    for (std::uint64_t i = 0; i < enough / region - 1; ++i)
        r.read(0, region);
    CHECK(r.proposed.size() == 1);
    r.settles = true;
    r.read(0, region);
    CHECK(r.proposed.size() == 2);
    for (std::uint64_t i = 0; i < 2 * enough / region; ++i)
        r.read(0, region);
    CHECK(r.proposed.size() == 2);
}

TEST_CASE(
    "backend/huge_page_promoter: a region of which a byte was given back is counted from zero")
{
    reader r{4 * region};
    const auto warm = [&r] {
        for (std::uint64_t i = 0; i < enough / region; ++i)
            for (const auto at : {std::uint64_t{0}, region, 2 * region})
                r.read(at, region);
    };
    warm();
    REQUIRE(r.proposed == list{0, region, 2 * region});
    r.heat.forget(2 * region - 1, 1);
    r.heat.forget(region, 0);
    warm();
    CHECK(r.proposed == list{0, region, 2 * region, region});
    r.heat.forget(0, ~std::uint64_t{0});
    warm();
    CHECK(r.proposed.size() == 7);
}

TEST_CASE("backend/huge_page_promoter: an incomplete region is never proposed")
{
    reader r{region + region / 2};
    for (std::uint64_t i = 0; i < 2 * enough / region; ++i)
        r.read(0, region + region / 2);
    CHECK(r.proposed == list{0});
    reader small{100};
    for (std::uint64_t i = 0; i < 1000; ++i)
        small.read(0, 100);
    small.heat.forget(0, 100);
    CHECK(small.proposed.empty());
    reader none{0};
    none.heat.forget(0, 0);
    CHECK(none.proposed.empty());
}
