// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/backend/null_backend.hpp>
#include <nbd/concepts/diagnosis.hpp>
#include <nbd/transmission/capabilities.hpp>

#include <vector>

using namespace nbd::protocol::transmission_flag;
static_assert(nbd::backend<nbd::null_backend>
              && nbd::diagnosis::backend_is_sound<nbd::null_backend>());
static_assert(nbd::transmission::capabilities<nbd::null_backend>()
              == (has_flags | send_flush | send_fua | send_trim | send_write_zeroes | send_fast_zero
                  | send_cache | can_multi_conn));

TEST_CASE("backend/null_backend: reads as zero after any write, at any size")
{
    nbd::null_backend disk{~std::uint64_t{0} >> 1};
    CHECK(disk.size() == ~std::uint64_t{0} >> 1);
    const std::vector<std::byte> ones(100, std::byte{1});
    CHECK_FALSE(disk.write(1ULL << 60, ones));
    std::vector<std::byte> to(100, std::byte{0xee});
    CHECK_FALSE(disk.read(1ULL << 60, to));
    CHECK(to == std::vector<std::byte>(100));
    CHECK_FALSE(disk.flush());
    CHECK_FALSE(disk.trim(0, disk.size()));
    CHECK_FALSE(disk.write_zeroes(0, disk.size(), {.no_hole = true, .fast = true}));
    CHECK_FALSE(disk.cache(0, disk.size()));
}
