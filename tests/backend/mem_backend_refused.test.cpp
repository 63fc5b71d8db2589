// SPDX-License-Identifier: MIT
// The disk in memory on systems that refuse some calls, such as gVisor.
#include "backend/memory_support.hpp"
#include "catch.hpp"
#include "support/bytes.hpp"
#include "support/refused.hpp"
#include <nbd/backend/mem_backend.hpp>

#include <cerrno>

using nbd::mem_backend;
using namespace nbd_test;

namespace {

constexpr std::uint64_t mib = 1 << 20;

/// Trims and zeroes a disk that is full of data to `size`, and checks all that it holds then.
bool discards_exactly(mem_backend& disk, std::uint64_t size)
{
    auto expected = pattern(size);
    if (disk.write(0, expected))
        return false;
    const auto zeroed = [&](std::uint64_t at, std::uint64_t n) {
        std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(at), n, std::byte{0});
    };
    if (disk.trim(5000, 300'000) || disk.trim(0, 4096))
        return false;
    zeroed(5000, 300'000);
    zeroed(0, 4096);
    if (disk.write_zeroes(size - 10'000, 10'000, {.fast = true}))
        return false;
    zeroed(size - 10'000, 10'000);
    bytes to(size);
    if (disk.read(0, to) || to != expected)
        return false;
    // What is behind a smaller end does not come back.
    const auto whole = disk.size();
    if (disk.resize(size / 2) || disk.resize(whole) || disk.read(0, to))
        return false;
    zeroed(size / 2, size - size / 2);
    return to == expected;
}

}  // namespace

TEST_CASE("backend/mem_backend: without fallocate, memory is given back by madvise")
{
    const int error = GENERATE(EPERM, ENOSYS, EOPNOTSUPP, EINVAL);
    CHECK(works_refusing({SYS_fallocate}, error, [] {
        mem_backend disk{8 * mib};
        if (disk.write(0, pattern(8 * mib)))
            return false;
        const auto file = disk.lend_file(0, 1).file;
        const auto before = committed(file);
        return file < 0
            || (!disk.trim(0, 4 * mib) && committed(file) <= before - 4 * mib
                && discards_exactly(disk, mib));
    }));
}

TEST_CASE("backend/mem_backend: trim and zeroes work whatever calls the system refuses")
{
    const int error = GENERATE(EPERM, ENOSYS, EOPNOTSUPP, EINVAL);
    // On a large disk, one bit of the map stands for many pages.
    const std::uint64_t size = GENERATE(4 * mib, std::uint64_t{1} << 38);
    CAPTURE(error, size);
    const auto works = [&] {
        mem_backend disk{size};
        return discards_exactly(disk, mib);
    };
    CHECK(works_refusing({SYS_fallocate}, error, works));
    CHECK(works_refusing({SYS_fallocate, SYS_madvise}, error, works));
    CHECK(works_refusing({SYS_pwrite64}, error, works));
    CHECK(works_refusing({SYS_pread64}, error, works));
    CHECK(works_refusing({SYS_ftruncate}, error, works));
    CHECK(works_refusing({SYS_memfd_create}, error, works));
    CHECK(works_refusing({SYS_memfd_create, SYS_madvise}, error, works));
}
