// SPDX-License-Identifier: MIT
// Files on systems that refuse some calls, such as a container with a seccomp profile.
#include "backend/file_support.hpp"
#include "catch.hpp"
#include "support/bytes.hpp"
#include "support/refused.hpp"
#include <nbd/backend/file_backend.hpp>

using nbd::file_backend;
using namespace nbd_test;

namespace {

const bytes data = pattern(64 * kib);

/// Whether one refused call leaves everything usable.
bool serves(const std::string& path, long call, int error)
{
    return works_refusing({call}, error, [&] {
        file_backend disk{path};
        bytes to(data.size());
        nbd::extent_list map;
        map.begin(mib, 10);
        return !disk.write(0, data, {.fua = true}) && !disk.write(mib / 2, data) && !disk.flush()
            && !disk.write(0, data, {.fua = true}) && !disk.read(0, to) && to == data
            && !disk.cache(0, mib) && !disk.extents(0, mib, map) && !disk.trim(0, 4096);
    });
}

}  // namespace

TEST_CASE("backend/file_backend: a refused call is replaced")
{
    const int error = GENERATE(EPERM, ENOSYS, EOPNOTSUPP, EINVAL);
    const folder here;
    make_file(here / "disk", mib);
    CAPTURE(error);
    CHECK(serves(here / "disk", SYS_pwritev2, error));
    CHECK(serves(here / "disk", SYS_pwrite64, error));
    CHECK(serves(here / "disk", SYS_pread64, error));
    CHECK(serves(here / "disk", SYS_fdatasync, error));
    CHECK(serves(here / "disk", SYS_sync_file_range, error));
    CHECK(serves(here / "disk", SYS_fallocate, error));
    CHECK(serves(here / "disk", SYS_fadvise64, error));
    CHECK(serves(here / "disk", SYS_lseek, error));
    CHECK(serves(here / "disk", SYS_statx, error));
    CHECK(works_refusing({SYS_fsync}, error, [&] {
        return file_backend{here / "new", {.create = mib}}.size() == mib;
    }));
}

TEST_CASE("backend/file_backend: where fallocate is refused, the server is told to write zeroes")
{
    const int error = GENERATE(EPERM, ENOSYS, EOPNOTSUPP, EINVAL);
    const folder here;
    make_file(here / "disk", mib);
    CHECK(works_refusing({SYS_fallocate}, error, [&] {
        file_backend disk{here / "disk"};
        for (const bool no_hole : {false, true})
            for (const bool fast : {false, true})
                if (disk.write_zeroes(0, 4096, {.no_hole = no_hole, .fast = fast})
                    != std::errc::not_supported)
                    return false;
        return !disk.trim(0, 4096);
    }));
}

TEST_CASE("backend/file_backend: zeroes past the end of a file that was cut are to be written")
{
    const bool no_hole = GENERATE(false, true);
    const folder here;
    file_backend disk{here / "disk", {.create = mib}};
    if (disk.write_zeroes(0, 4096, {.no_hole = no_hole}))
        NBD_SKIP("this file system has no holes");
    std::filesystem::resize_file(here / "disk", mib / 2);
    CHECK(disk.write_zeroes(mib / 2 - 4096, 8192, {.no_hole = no_hole})
          == std::errc::not_supported);
    CHECK_FALSE(disk.write_zeroes(mib / 2 - 4096, 4096, {.no_hole = no_hole}));
    CHECK(std::filesystem::file_size(here / "disk") == mib / 2);
}
