// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/bytes.hpp"
#include "support/sanitizers.hpp"
#include <nbd/backend/mem_backend.hpp>
#include <nbd/concepts/diagnosis.hpp>
#include <nbd/transmission/capabilities.hpp>

#include <algorithm>

// Under ThreadSanitizer the disk lends nothing, and there is nothing to test with one thread.
#if !NBD_TEST_TSAN

using nbd::mem_backend;
using namespace nbd_test;
using namespace nbd::protocol::transmission_flag;

static_assert(nbd::backend<mem_backend> && nbd::diagnosis::backend_is_sound<mem_backend>());
static_assert(nbd::has_lend<mem_backend> && nbd::has_lend_for_write<mem_backend>);
static_assert(nbd::concurrency_of<mem_backend>() == nbd::concurrency::parallel);
static_assert(nbd::transmission::capabilities<mem_backend>()
              == (has_flags | send_flush | send_fua | send_trim | send_write_zeroes | send_fast_zero
                  | send_cache | can_multi_conn | send_resize));
static_assert(!std::is_copy_constructible_v<mem_backend>
              && std::is_move_constructible_v<mem_backend>);

namespace {
bool is_zero(std::span<const std::byte> memory)
{
    return std::all_of(memory.begin(), memory.end(), [](std::byte b) { return b == std::byte{0}; });
}
}  // namespace

TEST_CASE("backend/mem_backend: reads what was written, where it was written")
{
    mem_backend disk{1 << 20};
    CHECK(disk.size() == 1 << 20);
    const auto data = pattern(5000);
    CHECK_FALSE(disk.write((1 << 20) - 5000, data));
    bytes to(5000);
    CHECK_FALSE(disk.read((1 << 20) - 5000, to));
    CHECK((to == data));
    CHECK(is_zero(disk.lend(0, (1 << 20) - 5000)));
    CHECK_FALSE(disk.flush());
    CHECK_FALSE(disk.cache(0, 1 << 20));
}

TEST_CASE("backend/mem_backend: written memory is lent without a copy, at the requested length")
{
    mem_backend disk{1 << 20};
    CHECK(disk.lend_for_write(100, 70'000).empty());  // nothing was written there
    CHECK_FALSE(disk.write(100, bytes(70'000)));
    const auto to = disk.lend_for_write(100, 70'000);
    REQUIRE(to.size() == 70'000);
    const auto data = pattern(70'000);
    std::copy(data.begin(), data.end(), to.begin());
    const auto from = disk.lend(101, 3);
    CHECK(from.data() == to.data() + 1);
    CHECK(shown(from) == shown(std::span{data}.subspan(1, 3)));
    bytes read(4);
    CHECK_FALSE(disk.read(100, read));
    CHECK(shown(read) == shown(std::span{data}.first(4)));
}

TEST_CASE("backend/mem_backend: trim changes only the requested range (N-09)")
{
    const std::uint64_t offset = 67'109'888;
    const std::uint64_t length = 8'388'608;
    mem_backend disk{96 << 20};
    CHECK_FALSE(disk.write(0, bytes(96 << 20, std::byte{0x5a})));
    const auto all = disk.lend(0, 96 << 20);
    CHECK_FALSE(disk.trim(offset, length));
    CHECK(is_zero(all.subspan(offset, length)));
    CHECK(static_cast<std::uint64_t>(std::count(all.begin(), all.end(), std::byte{0x5a}))
          == all.size() - length);
    // and around a page, to the byte
    CHECK_FALSE(disk.trim(4095, 4098));
    CHECK(is_zero(all.subspan(4095, 4098)));
    CHECK(all[4094] == std::byte{0x5a});
    CHECK(all[8193] == std::byte{0x5a});
}

TEST_CASE("backend/mem_backend: write_zeroes makes zeroes; with no_hole it is not supported and "
          "changes nothing (P65)")
{
    for (const bool no_hole : {false, true}) {
        for (const bool fast : {false, true}) {
            mem_backend disk{1 << 20};
            CHECK_FALSE(disk.write(0, bytes(1 << 20, std::byte{0x5a})));
            const auto all = disk.lend(0, 1 << 20);
            const auto failed =
                disk.write_zeroes(5000, 100'000, {.no_hole = no_hole, .fast = fast});
            // no_hole means to write zeroes, which is not fast, so it is refused without a change.
            if (no_hole) {
                CHECK(failed == std::errc::not_supported);
                CHECK(std::count(all.begin(), all.end(), std::byte{0x5a}) == 1 << 20);
            } else {
                CHECK_FALSE(failed);
                CHECK(is_zero(all.subspan(5000, 100'000)));
                CHECK(std::count(all.begin(), all.end(), std::byte{0x5a}) == (1 << 20) - 100'000);
            }
        }
    }
}

TEST_CASE("backend/mem_backend: a disk of size 0, and one that is too large")
{
    mem_backend none{0};
    CHECK(none.size() == 0);
    CHECK(none.lend(0, 0).empty());
    CHECK_FALSE(none.trim(0, 0));
    CHECK_THROWS_AS(mem_backend{~std::uint64_t{0}}, std::system_error);
}

#endif
