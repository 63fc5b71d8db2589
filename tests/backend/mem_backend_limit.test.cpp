// SPDX-License-Identifier: MIT
// The memory limit of a disk in memory is reached and not exceeded, as the kernel counts it.
#include "backend/memory_support.hpp"
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/backend/mem_backend.hpp>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

using nbd::mem_backend;
using namespace nbd_test;

namespace {

constexpr std::uint64_t mib = 1 << 20;
constexpr std::uint64_t tib = std::uint64_t{1} << 40;

/// The descriptor behind a disk whose first byte is written; -1: private memory, which has no
/// limit.
int file_of(mem_backend& disk)
{
    REQUIRE_FALSE(disk.write(0, pattern(1)));
    return disk.lend_file(0, 1).file;
}
bool has_memfd()
{
    mem_backend disk{4096};
    return file_of(disk) >= 0;
}

}  // namespace

#define NBD_NEEDS_MEMFD                                                                            \
    if (!has_memfd())                                                                              \
    NBD_SKIP("this system has no memfd")

TEST_CASE("backend/mem_backend: data use memory up to the limit, then writes are ENOSPC")
{
    NBD_NEEDS_MEMFD;
    // in a map whose parts are pages, and in one with larger parts
    for (const auto size : {64 * mib, tib}) {
        mem_backend disk{size, {.memory_limit = 8 * mib}};
        const auto data = pattern(mib);
        for (std::uint64_t i = 0; i < 8; ++i)
            REQUIRE_FALSE(disk.write(i * 4 * mib, data));
        const auto file = disk.lend_file(0, 1).file;
        REQUIRE(committed(file) == 8 * mib);
        CHECK(disk.write(40 * mib, data) == std::errc::no_space_on_device);
        CHECK(disk.write(mib, pattern(1)) == std::errc::no_space_on_device);
        CHECK(disk.write(mib - 10, pattern(20)) == std::errc::no_space_on_device);
        // existing data can be overwritten, and lent
        CHECK_FALSE(disk.write(4 * mib, pattern(mib, 9)));
        CHECK_FALSE(disk.write(mib - 10, pattern(10)));
        // reads and zeroes allocate nothing, not even in parts of pages
        bytes to(4 * mib);
        CHECK_FALSE(disk.read(mib / 2, to));
        CHECK_FALSE(disk.trim(mib + 100, 100));
        CHECK_FALSE(disk.write_zeroes(50 * mib + 100, 5000, {}));
        CHECK(committed(file) == 8 * mib);
        // trim returns memory
        CHECK_FALSE(disk.trim(8 * mib, mib));
        CHECK(committed(file) == 7 * mib);
        CHECK_FALSE(disk.write(40 * mib, data));
        CHECK(disk.write(41 * mib, pattern(1)) == std::errc::no_space_on_device);
        CHECK(committed(file) == 8 * mib);
    }
}

TEST_CASE("backend/mem_backend: on a large disk, reading beside written data allocates no memory")
{
    NBD_NEEDS_MEMFD;
    mem_backend disk{tib, {.memory_limit = 8 * mib}};
    const auto file = file_of(disk);
    for (std::uint64_t i = 0; i < 64; ++i)
        REQUIRE_FALSE(disk.write(i * mib, pattern(1)));
    bytes to(65536);
    for (std::uint64_t i = 0; i < 64; ++i) {
        REQUIRE_FALSE(disk.read(i * mib, to));
        REQUIRE(disk.lend(i * mib, 65536).empty());
        REQUIRE_FALSE(disk.trim(i * mib + 4096 + 5, 5));
    }
    CHECK(committed(file) == 64 * 4096);
    CHECK(to[0] == pattern(1)[0]);
    CHECK(to[1] == std::byte{0});
}

TEST_CASE("backend/mem_backend: several threads together do not exceed the limit")
{
    NBD_NEEDS_MEMFD;
    mem_backend disk{256 * mib, {.memory_limit = 16 * mib}};
    const auto file = file_of(disk);
    std::atomic<std::uint64_t> refused = 0;
    std::vector<std::thread> writers;
    for (std::uint64_t w = 0; w < 4; ++w)
        writers.emplace_back([&, w] {
            const auto data = pattern(192 * 1024);
            for (std::uint64_t i = 0; i < 64; ++i)
                refused += bool{disk.write(w * 64 * mib + i * mib, data)};
        });
    for (auto& w : writers)
        w.join();
    CHECK(refused > 0);
    CHECK(committed(file) <= 16 * mib);
    CHECK(committed(file) > 15 * mib);
}

TEST_CASE("backend/mem_backend: a disk without a set limit can be filled, and a limit of 0 stores "
          "nothing")
{
    NBD_NEEDS_MEMFD;
    const auto machine = static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES))
        * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    mem_backend disk{64 * mib};
    for (std::uint64_t i = 0; i < 64; ++i)
        REQUIRE_FALSE(disk.write(i * mib, pattern(mib)));
    mem_backend none{64 * mib, {.memory_limit = 0}};
    CHECK(none.write(0, pattern(1)) == std::errc::no_space_on_device);
    bytes to(10, std::byte{1});
    CHECK_FALSE(none.read(0, to));
    CHECK(to == bytes(10));
    nbd::sparse_memory memory{2 * machine, machine / 4 * 3};
    CHECK(memory.is_limited());
}

TEST_CASE("backend/mem_backend: a moved disk keeps its limit")
{
    NBD_NEEDS_MEMFD;
    mem_backend one{64 * mib, {.memory_limit = mib}};
    REQUIRE_FALSE(one.write(0, pattern(mib)));
    mem_backend two{std::move(one)};
    CHECK(two.write(mib, pattern(1)) == std::errc::no_space_on_device);
    two = mem_backend{64 * mib, {.memory_limit = 2 * mib}};
    CHECK_FALSE(two.write(mib, pattern(2 * mib)));
    CHECK(two.write(0, pattern(1)) == std::errc::no_space_on_device);
}
