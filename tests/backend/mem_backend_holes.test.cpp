// SPDX-License-Identifier: MIT
// Data and holes of the disk in memory, reads that allocate nothing, and resize.
#include "backend/memory_support.hpp"
#include "catch.hpp"
#include "support/bytes.hpp"
#include "support/sanitizers.hpp"
#include <nbd/backend/mem_backend.hpp>

#include <algorithm>
#include <chrono>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

// Under ThreadSanitizer the disk lends nothing, and there is nothing to test with one thread.
#if !NBD_TEST_TSAN

using nbd::extent;
using nbd::mem_backend;
using namespace nbd_test;

namespace {

constexpr std::uint64_t mib = 1 << 20;
constexpr std::uint64_t tib = std::uint64_t{1} << 40;

struct part {
    std::uint64_t from;
    std::uint64_t to;
    bool hole;
    friend bool operator==(const part&, const part&) = default;
    friend std::ostream& operator<<(std::ostream& out, const part& p)
    {
        return out << p.from << ".." << p.to << (p.hole ? " hole" : " data");
    }
};
std::vector<part> parts(mem_backend& disk, std::uint64_t offset, std::uint64_t length,
                        std::size_t most = 1000)
{
    nbd::extent_list to;
    to.begin(length, most);
    CHECK_FALSE(disk.extents(offset, length, to));
    std::vector<part> all;
    for (const auto& e : to.extents()) {
        CHECK((e.flags == 0 || e.flags == 3));
        all.push_back({offset, offset + e.length, e.flags == 3});
        offset += e.length;
    }
    return all;
}
bool is_zero(mem_backend& disk, std::uint64_t offset, std::size_t length)
{
    bytes to(length, std::byte{0xee});
    CHECK_FALSE(disk.read(offset, to));
    return std::all_of(to.begin(), to.end(), [](std::byte b) { return b == std::byte{0}; });
}
std::optional<mem_backend> huge(std::uint64_t size)
{
    try {
        return std::optional<mem_backend>{std::in_place, size};
    } catch (const std::system_error&) {
        return std::nullopt;
    }
}
using list = std::vector<part>;

}  // namespace

static_assert(nbd::has_extents<mem_backend> && nbd::has_resize<mem_backend>);

TEST_CASE("backend/mem_backend: written pages are data, all others are holes (P84)")
{
    mem_backend disk{16 * mib};
    CHECK(parts(disk, 0, 16 * mib) == list{{0, 16 * mib, true}});
    CHECK_FALSE(disk.write(5 * mib, pattern(100)));
    CHECK(parts(disk, 0, 16 * mib)
          == list{{0, 5 * mib, true},
                  {5 * mib, 5 * mib + 4096, false},
                  {5 * mib + 4096, 16 * mib, true}});
    // any range, also one that starts in the middle of a page
    CHECK(parts(disk, 5 * mib + 10, 20) == list{{5 * mib + 10, 5 * mib + 30, false}});
    CHECK(parts(disk, 5 * mib - 1, 2)
          == list{{5 * mib - 1, 5 * mib, true}, {5 * mib, 5 * mib + 1, false}});
    CHECK(parts(disk, 16 * mib - 1, 1) == list{{16 * mib - 1, 16 * mib, true}});
    CHECK(parts(disk, 0, 16 * mib, 1) == list{{0, 5 * mib, true}});
}

TEST_CASE("backend/mem_backend: trim and zeroes make holes; no_hole is not supported (P65)")
{
    mem_backend disk{mib};
    CHECK_FALSE(disk.write(0, pattern(mib)));
    CHECK(parts(disk, 0, mib) == list{{0, mib, false}});
    CHECK_FALSE(disk.trim(8192, 8192));
    CHECK(parts(disk, 0, mib) == list{{0, 8192, false}, {8192, 16384, true}, {16384, mib, false}});
    CHECK(is_zero(disk, 8192, 8192));
    CHECK(disk.write_zeroes(0, mib, {.no_hole = true}) == std::errc::not_supported);
    CHECK(parts(disk, 0, mib) == list{{0, 8192, false}, {8192, 16384, true}, {16384, mib, false}});
    CHECK_FALSE(disk.write_zeroes(0, mib, {}));
    CHECK(parts(disk, 0, mib) == list{{0, mib, true}});
    CHECK(disk.write_zeroes(0, mib, {.no_hole = true, .fast = true}) == std::errc::not_supported);
    CHECK(parts(disk, 0, mib) == list{{0, mib, true}});
}

TEST_CASE("backend/mem_backend: reading holes allocates no memory")
{
    auto disk = huge(tib);
    if (!disk)
        NBD_SKIP("no address space for 1 TiB");
    CHECK_FALSE(disk->write(0, pattern(1)));
    const auto file = disk->lend_file(0, 1).file;
    if (file < 0)
        NBD_SKIP("this system has no memfd");
    const auto before = committed(file);
    if (before > 4096)
        NBD_SKIP("the kernel backs shared memory with huge pages");
    bytes to(mib);
    for (std::uint64_t i = 0; i < 256; ++i) {
        REQUIRE_FALSE(disk->read(i * (tib / 256), to));
        REQUIRE(disk->lend(i * (tib / 256), mib).empty());
    }
    // trim and zeroes allocate nothing either, not even for a part of a page
    REQUIRE_FALSE(disk->trim(5000, 10));
    REQUIRE_FALSE(disk->write_zeroes(tib / 2 + 10, 20, {}));
    REQUIRE_FALSE(disk->resize(tib - 10));
    CHECK(committed(file) == before);
}

TEST_CASE("backend/mem_backend: written ranges are lent, others are read (N-15)")
{
    mem_backend disk{4 * mib};
    CHECK_FALSE(disk.write(mib, pattern(mib)));
    const auto lent = disk.lend(mib, mib);
    REQUIRE(lent.size() == mib);
    CHECK(shown(lent.first(64)) == shown(pattern(64)));
    CHECK(disk.lend(0, 2 * mib).empty());
    CHECK(disk.lend(2 * mib, 1).empty());
    // across the borders of the written range
    bytes to(2 * mib, std::byte{0xee});
    CHECK_FALSE(disk.read(mib / 2 + 1, to));
    const auto zero = [](std::byte b) { return b == std::byte{0}; };
    CHECK(std::all_of(to.begin(), to.begin() + mib / 2 - 1, zero));
    CHECK(std::equal(lent.begin(), lent.end(), to.begin() + mib / 2 - 1));
    CHECK(std::all_of(to.begin() + mib / 2 - 1 + mib, to.end(), zero));
    // bytes that were received in place are there as well
    CHECK(disk.lend_for_write(3 * mib, 10).empty());
    const auto place = disk.lend_for_write(mib + 7, 10);
    REQUIRE(place.size() == 10);
    place[0] = std::byte{0x77};
    disk.lent_written(mib + 7, 10);
    CHECK(disk.lend(mib + 7, 10)[0] == std::byte{0x77});
}

TEST_CASE("backend/mem_backend: repeated reads change neither the content nor the holes")
{
    // The kernel chooses pages of 4 KiB or huge ones, without a visible difference.
    mem_backend disk{8 * mib};
    const auto data = pattern(4 * mib);
    CHECK_FALSE(disk.write(0, data));
    CHECK_FALSE(disk.trim(mib, 4096));
    const auto before = parts(disk, 0, 8 * mib);
    for (int i = 0; i < 64; ++i) {
        for (const std::uint64_t at : {0U, 2U, 3U})
            REQUIRE(disk.lend_file(at * mib, mib).offset == at * mib);
        REQUIRE(disk.lend_file(mib, mib).file == -1);
        REQUIRE(disk.lend_file(mib + 4096, mib - 4096).offset == mib + 4096);
    }
    CHECK(parts(disk, 0, 8 * mib) == before);
    CHECK(is_zero(disk, mib, 4096));
    CHECK(std::equal(data.begin() + 2 * mib, data.end(), disk.lend(2 * mib, 2 * mib).begin()));
    CHECK(std::equal(data.begin(), data.begin() + mib, disk.lend(0, mib).begin()));

    CHECK_FALSE(disk.write(3 * mib + 5, pattern(100, 7)));
    CHECK_FALSE(disk.trim(2 * mib, 8192));
    CHECK(is_zero(disk, 2 * mib, 8192));
    bytes to(100);
    CHECK_FALSE(disk.read(3 * mib + 5, to));
    CHECK(to == pattern(100, 7));
    CHECK(parts(disk, 2 * mib, mib)
          == list{{2 * mib, 2 * mib + 8192, true}, {2 * mib + 8192, 3 * mib, false}});
}

TEST_CASE("backend/mem_backend: 1 TiB is zeroed, trimmed and described within a second")
{
    auto disk = huge(tib);
    if (!disk)
        NBD_SKIP("no address space for 1 TiB");
    CHECK_FALSE(disk->write(tib - 5, pattern(5)));
    const auto begun = std::chrono::steady_clock::now();
    CHECK_FALSE(disk->write_zeroes(0, tib, {}));
    CHECK_FALSE(disk->trim(0, tib));
    const auto all = parts(*disk, 0, tib);
    CHECK(std::chrono::steady_clock::now() - begun < std::chrono::seconds{1});
    CHECK(all == list{{0, tib, true}});
    CHECK(is_zero(*disk, tib - 5, 5));
}

TEST_CASE("backend/mem_backend: bytes written behind the end are not visible when the disk grows")
{
    mem_backend disk{mib, {.max_size = 4 * mib}};
    // as a WRITE does that was in progress while the disk shrank
    const auto leave_behind = [&] {
        CHECK_FALSE(disk.resize(2 * mib));
        CHECK_FALSE(disk.write(mib, bytes(mib, std::byte{0xdd})));
        const auto place = disk.lend_for_write(mib, mib);
        REQUIRE(place.size() == mib);
        CHECK_FALSE(disk.resize(mib));
        std::fill(place.begin(), place.end(), std::byte{0xee});
    };
    leave_behind();
    CHECK_FALSE(disk.resize(4 * mib));
    CHECK(is_zero(disk, mib, 3 * mib));
    CHECK(parts(disk, mib, 3 * mib) == list{{mib, 4 * mib, true}});
    // nor inside a page that is written afterwards
    leave_behind();
    CHECK_FALSE(disk.resize(mib + 100));
    CHECK_FALSE(disk.write(mib + 50, pattern(10)));
    CHECK(is_zero(disk, mib, 50));
    CHECK(is_zero(disk, mib + 60, 40));
}

TEST_CASE("backend/mem_backend: the disk grows up to max_size")
{
    mem_backend disk{mib, {.max_size = 4 * mib}};
    CHECK(disk.size() == mib);
    CHECK_FALSE(disk.write(mib - 4, hex("01020304")));
    CHECK_FALSE(disk.resize(4 * mib));
    CHECK(disk.size() == 4 * mib);
    CHECK(is_zero(disk, mib, 3 * mib));
    CHECK_FALSE(disk.write(4 * mib - 4, hex("05060708")));
    CHECK(disk.resize(4 * mib + 1) == std::errc::no_space_on_device);
    CHECK(disk.resize(~std::uint64_t{0}) == std::errc::no_space_on_device);
    CHECK(disk.size() == 4 * mib);
    CHECK_FALSE(is_zero(disk, mib - 4, 4));

    mem_backend fixed{mib};
    CHECK(fixed.resize(mib + 1) == std::errc::no_space_on_device);
    CHECK_FALSE(fixed.resize(mib));
    CHECK(mem_backend{4 * mib, {.max_size = mib}}.size() == 4 * mib);
}

TEST_CASE("backend/mem_backend: a disk that shrinks and grows again reads as zero there")
{
    mem_backend disk{mib};
    CHECK_FALSE(disk.write(0, bytes(mib, std::byte{0xff})));
    for (const std::uint64_t size : {mib - 1, mib / 2 + 100, mib / 2, std::uint64_t{1}}) {
        CHECK_FALSE(disk.resize(size));
        CHECK(disk.size() == size);
        CHECK_FALSE(disk.resize(mib));
        CHECK(is_zero(disk, size, mib - size));
        CHECK_FALSE(is_zero(disk, size - 1, 1));
    }
    CHECK_FALSE(disk.resize(0));
    CHECK(disk.size() == 0);
    CHECK_FALSE(disk.resize(mib));
    CHECK(is_zero(disk, 0, mib));
}

#endif
