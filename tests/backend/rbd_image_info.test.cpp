// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/backend/rbd_image_info.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

std::vector<nbd::extent> reported(std::vector<nbd::rbd_area> areas, std::uint64_t offset,
                                  std::uint64_t end, const nbd::rbd_statuses& as,
                                  std::size_t most = 100)
{
    nbd::extent_list list;
    list.begin(end - offset, most);
    nbd::report_areas(areas, offset, end, as, list);
    return {list.extents().begin(), list.extents().end()};
}
using extents = std::vector<nbd::extent>;

}  // namespace

TEST_CASE("backend/rbd_image_info: what is in no area is a hole, and the areas are data")
{
    CHECK(reported({}, 0, 100, nbd::rbd_allocation) == extents{{100, 3}});
    CHECK(reported({{10, 20}, {50, 50}}, 0, 100, nbd::rbd_allocation)
          == extents{{10, 3}, {20, 0}, {20, 3}, {50, 0}});
    CHECK(reported({{10, 20, false}}, 0, 40, nbd::rbd_allocation) == extents{{40, 3}});
}

TEST_CASE("backend/rbd_image_info: areas are cut to the range")
{
    CHECK(reported({{0, 10}, {20, 100}}, 5, 30, nbd::rbd_allocation)
          == extents{{5, 0}, {10, 3}, {10, 0}});
    CHECK(reported({{0, 10}, {90, 10}}, 20, 30, nbd::rbd_allocation) == extents{{10, 3}});
}

TEST_CASE("backend/rbd_image_info: areas of a striped image come in another order")
{
    CHECK(reported({{0, 10}, {40, 10}, {20, 10}}, 0, 60, nbd::rbd_allocation)
          == extents{{10, 0}, {10, 3}, {10, 0}, {10, 3}, {10, 0}, {10, 3}});
}

TEST_CASE("backend/rbd_image_info: a discarded area has changed and is zero")
{
    CHECK(reported({{10, 10}, {20, 10, false}}, 0, 40, nbd::rbd_snap_diff)
          == extents{{10, 0}, {10, 1}, {10, 3}, {10, 0}});
}

TEST_CASE("backend/rbd_image_info: a full list ends the report")
{
    CHECK(reported({{0, 10}, {20, 10}, {40, 10}}, 0, 60, nbd::rbd_allocation, 3)
          == extents{{10, 0}, {10, 3}, {10, 0}});
}
