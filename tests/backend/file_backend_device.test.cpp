// SPDX-License-Identifier: MIT
// A block device: a loop device on a file, where that is permitted.
#include "backend/file_support.hpp"
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/backend/file_backend.hpp>

using nbd::file_backend;
using namespace nbd_test;

namespace {

std::uint64_t number_in(const std::string& path)
{
    std::uint64_t number = 0;
    std::ifstream{path} >> number;
    return number;
}

}  // namespace

TEST_CASE("backend/file_backend: a block device has its own size and sectors")
{
    const std::uint32_t sector = GENERATE(512u, 4096u);
    const folder here;
    make_file(here / "image", 8 * mib);
    const auto loop = loop_device::make(here / "image", sector);
    if (!loop)
        NBD_SKIP("no loop device can be made here");
    CAPTURE(loop->path(), sector);

    file_backend disk{loop->path(), {.create = 8 * mib}};
    CHECK(disk.size() == 8 * mib);
    CHECK(disk.block_sizes().minimum == 1);
    CHECK(disk.block_sizes().preferred >= sector);
    CHECK_THROWS_WITH(
        (file_backend{loop->path(), {.create = 9 * mib, .lock = nbd::file_lock::off}}),
        Catch::Matchers::ContainsSubstring("9437184 bytes; it has 8388608"));
    CHECK(disk.resize(mib) == std::errc::not_supported);
    const auto queue = "/sys/block" + loop->path().substr(4) + "/queue/";
    const auto can = disk.abilities();
    CHECK_FALSE((can.read_only || can.resize));
    CHECK(can.trim == (number_in(queue + "discard_max_bytes") != 0));
    CHECK(can.rotational == (number_in(queue + "rotational") != 0));

    const auto all = pattern(100'000);
    CHECK_FALSE(disk.write(7777, all, {.fua = true}));
    bytes to(100'000);
    CHECK_FALSE(disk.read(7777, to));
    CHECK((to == all));
    CHECK_FALSE(disk.flush());
    CHECK_FALSE(disk.cache(0, 8 * mib));
    CHECK(parts(disk, 5, 1000) == "5..1005 data");
}

TEST_CASE("backend/file_backend: a block device reads as zero exactly where it was zeroed")
{
    const std::uint32_t sector = GENERATE(512u, 4096u);
    const bool direct = GENERATE(false, true);
    const folder here;
    make_file(here / "image", 8 * mib);
    const auto loop = loop_device::make(here / "image", sector);
    if (!loop)
        NBD_SKIP("no loop device can be made here");
    file_backend disk{loop->path(), {.direct = direct}};
    if (direct)
        CHECK(disk.block_sizes().minimum == sector);
    for (const nbd::zero_flags flags :
         {nbd::zero_flags{}, {.no_hole = true}, {.fast = true}, {.no_hole = true, .fast = true}}) {
        CAPTURE(sector, direct, flags.no_hole, flags.fast);
        REQUIRE_FALSE(disk.write(0, bytes(mib, std::byte{0x5a})));
        REQUIRE_FALSE(disk.flush());
        const auto before = stored(here / "image");
        const auto failed = disk.write_zeroes(4 * sector, 128 * kib, flags);
        bytes now(mib);
        REQUIRE_FALSE(disk.read(0, now));
        if (flags.fast && failed == std::errc::not_supported) {
            CHECK(is_all(now, 0x5a));
            continue;
        }
        CHECK_FALSE(failed);
        CHECK_FALSE((flags.no_hole && flags.fast));
        if (flags.no_hole) {
            CHECK_FALSE(disk.flush());
            CHECK(stored(here / "image") >= before);
        }
        CHECK(is_all(std::span{now}.first(4 * sector), 0x5a));
        CHECK(is_all(std::span{now}.subspan(4 * sector, 128 * kib)));
        CHECK(is_all(std::span{now}.subspan(4 * sector + 128 * kib), 0x5a));
    }
    // Zeroes for a part of a sector are refused; the server writes them.
    CHECK(disk.write_zeroes(1, 5000, {}) == std::errc::not_supported);
    // Trim changes only the whole sectors in its range.
    REQUIRE_FALSE(disk.write(0, bytes(mib, std::byte{0x5a})));
    CHECK_FALSE(disk.trim(sector - 1, 256 * kib + 2));
    bytes now(mib);
    REQUIRE_FALSE(disk.read(0, now));
    CHECK(is_all(std::span{now}.first(sector), 0x5a));
    CHECK(is_all(std::span{now}.subspan(sector + 256 * kib), 0x5a));
    CHECK_FALSE(disk.flush());
    CHECK(stored(here / "image") <= mib);
}
