// SPDX-License-Identifier: MIT
// Errors of files: no space, a limit, a truncated file, short transfers, and a sync
// that fails.
#include "backend/file_support.hpp"
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/backend/file_backend.hpp>

#include <csignal>

#include <sys/resource.h>

using nbd::file_backend;
using namespace nbd_test;

namespace {

/// A system that moves a few bytes at a time.
struct stingy : nbd::posix_file {
    static inline unsigned calls = 0;
    static std::size_t some(std::size_t n) { return std::min<std::size_t>(n, ++calls % 700 + 1); }
    static ssize_t read(int file, void* to, std::size_t n, std::uint64_t at) noexcept
    {
        return nbd::posix_file::read(file, to, some(n), at);
    }
    static ssize_t write(int file, const void* from, std::size_t n, std::uint64_t at) noexcept
    {
        return nbd::posix_file::write(file, from, some(n), at);
    }
    static ssize_t write_durably(int file, const void* from, std::size_t n,
                                 std::uint64_t at) noexcept
    {
        return nbd::posix_file::write_durably(file, from, some(n), at);
    }
};

/// A system with chosen results of writes and syncs. Each error is reported once, as on Linux.
struct failing : nbd::posix_file {
    static inline int sync_error = 0;
    static inline int write_error = 0;
    static inline int durable_error = 0;
    static inline int untold = 0;  // an error that was reported only to other descriptors
    static inline int syncs = 0;
    static inline int writes = 0;
    static inline int durable_writes = 0;
    static void reset()
    {
        sync_error = write_error = durable_error = untold = 0;
        syncs = writes = durable_writes = 0;
    }
    static bool fails(int& error) { return (errno = std::exchange(error, 0)) != 0; }
    static int sync(int) noexcept { return ++syncs, fails(sync_error) ? -1 : 0; }
    static int loss(int) noexcept { return fails(untold) ? -1 : 0; }
    static ssize_t write(int file, const void* from, std::size_t n, std::uint64_t at) noexcept
    {
        ++writes;
        return fails(write_error) ? -1 : nbd::posix_file::write(file, from, n, at);
    }
    static ssize_t write_durably(int file, const void* from, std::size_t n,
                                 std::uint64_t at) noexcept
    {
        ++durable_writes;
        return fails(durable_error) ? -1 : nbd::posix_file::write(file, from, n, at);
    }
};
using failing_backend = nbd::basic_file_backend<failing>;

/// The strictest direct I/O, on a file that ends in the middle of a block.
struct strict : nbd::posix_file {
    static int open(const char* path, int flags, bool) noexcept
    {
        return nbd::posix_file::open(path, flags, false);
    }
    static int facts(int file, nbd::file_facts& to) noexcept
    {
        const int done = nbd::posix_file::facts(file, to);
        to.direct_offset = to.direct_memory = 512;
        return done;
    }
    static int make_direct(int) noexcept { return 0; }
    static ssize_t read(int file, void* to, std::size_t n, std::uint64_t at) noexcept
    {
        return (at | n) % 512 == 0 ? nbd::posix_file::read(file, to, n, at) : (errno = EINVAL, -1);
    }
};

/// Returns 0 from every write. No system should do that.
struct stuck : nbd::posix_file {
    static ssize_t write(int, const void*, std::size_t, std::uint64_t) noexcept { return 0; }
    static ssize_t write_durably(int, const void*, std::size_t, std::uint64_t) noexcept
    {
        return 0;
    }
};

const bytes data = pattern(4096);

}  // namespace

TEST_CASE("backend/file_backend: short transfers are completed")
{
    const folder here;
    nbd::basic_file_backend<stingy> disk{here / "disk", {.create = mib}};
    for (const bool fua : {false, true}) {
        const auto all = pattern(100'001, fua);
        CHECK_FALSE(disk.write(77, all, {.fua = fua}));
        bytes to(100'001);
        CHECK_FALSE(disk.read(77, to));
        CHECK((to == all));
    }
    CHECK(stingy::calls > 500);
}

TEST_CASE("backend/file_backend: a write that makes no progress ends")
{
    const folder here;
    nbd::basic_file_backend<stuck> disk{here / "disk", {.create = mib}};
    CHECK(disk.write(0, data) == std::errc::io_error);
    CHECK(disk.write(0, data, {.fua = true}) == std::errc::io_error);
}

TEST_CASE("backend/file_backend: a file that was truncated by another program reads as EIO")
{
    const bool direct = GENERATE(false, true);
    const folder here;
    std::optional<file_backend> disk;
    try {
        disk.emplace(here / "disk", nbd::file_settings{.direct = direct, .create = mib});
    } catch (const std::system_error& e) {
        NBD_SKIP(e.what());
    }
    std::filesystem::resize_file(here / "disk", 100'000);
    bytes to(128 * kib);
    const auto failed = disk->read(64 * kib, to);
    CHECK(failed == std::errc::io_error);
    CHECK(failed.offset == 100'000);
    CHECK(disk->read(512 * kib, to) == std::errc::io_error);
    CHECK_FALSE(disk->read(0, std::span{to}.first(64 * kib)));

    nbd::basic_file_backend<strict> other{here / "other", {.direct = true, .create = mib}};
    std::filesystem::resize_file(here / "other", 100'000);
    CHECK(other.read(64 * kib, to) == std::errc::io_error);
}

TEST_CASE("backend/file_backend: after a failed flush, every later flush fails")
{
    const folder here;
    failing::reset();
    failing_backend disk{here / "disk", {.create = mib}};
    failing::reset();
    CHECK_FALSE(disk.flush());
    CHECK_FALSE(disk.write(0, data, {.fua = true}));
    failing::sync_error = EIO;
    CHECK(disk.flush() == std::errc::io_error);
    CHECK(failing::syncs == 2);
    // The system would report success for the next one, so it is not called.
    for (int i = 0; i < 3; ++i) {
        const auto again = disk.flush();
        CHECK(again == std::errc::io_error);
        CHECK_THAT(again.text, Catch::Matchers::ContainsSubstring("may be lost"));
        CHECK(disk.write(0, data, {.fua = true}) == std::errc::io_error);
    }
    CHECK(failing::syncs == 2);
    CHECK(failing::durable_writes == 1);
    // Writes without FUA and reads still work, so that the data can be saved.
    CHECK_FALSE(disk.write(8192, data));
    bytes to(4096);
    CHECK_FALSE(disk.read(8192, to));
    CHECK((to == data));
    CHECK_FALSE(disk.trim(0, 4096));
    // The state moves with the disk, and ends with it.
    auto moved = std::move(disk);
    CHECK(moved.flush() == std::errc::io_error);
    moved = failing_backend{here / "disk", {.lock = nbd::file_lock::off}};
    CHECK_FALSE(moved.flush());
    CHECK_FALSE(moved.write(0, data, {.fua = true}));
}

TEST_CASE("backend/file_backend: a durable write that fails after the data were accepted counts as "
          "a failed flush")
{
    const folder here;
    const int error = GENERATE(EIO, ENOSPC, EDQUOT);
    failing_backend disk{here / "disk", {.create = mib}};
    failing::reset();
    failing::durable_error = error;
    CHECK(disk.write(0, data, {.fua = true}).code.value() == error);
    CHECK(disk.flush() == std::errc::io_error);
    CHECK(failing::syncs == 0);
    CHECK(disk.write(0, data, {.fua = true}) == std::errc::io_error);
    CHECK_FALSE(disk.write(0, data));
}

TEST_CASE("backend/file_backend: a durable write whose data were refused is not a failed flush")
{
    const folder here;
    const int error = GENERATE(ENOSPC, EFBIG, EDQUOT);
    failing_backend disk{here / "disk", {.create = mib}};
    failing::reset();
    failing::durable_error = failing::write_error = error;
    const auto failed = disk.write(4096, data, {.fua = true});
    CHECK(failed.code.value() == error);
    CHECK(failed.offset == 4096);
    CHECK_FALSE(disk.flush());
    CHECK_FALSE(disk.write(4096, data, {.fua = true}));
}

TEST_CASE("backend/file_backend: a durable write is a failed flush unless the plain write fails "
          "with the same lack of space")
{
    const folder here;
    const auto [durable, plain] = GENERATE(table<int, int>(
        {{EIO, EIO}, {EIO, ENOSPC}, {ENOSPC, EIO}, {EDQUOT, ENOSPC}, {ENOMEM, ENOMEM}}));
    CAPTURE(durable, plain);
    failing_backend disk{here / "disk", {.create = mib}};
    failing::reset();
    failing::durable_error = durable;
    failing::write_error = plain;
    CHECK(disk.write(0, data, {.fua = true}).code.value() == durable);
    CHECK(disk.flush() == std::errc::io_error);
    CHECK(disk.write(0, data, {.fua = true}) == std::errc::io_error);
    failing::reset();
}

TEST_CASE("backend/file_backend: an error that was reported to another sync counts")
{
    const folder here;
    const bool fua = GENERATE(false, true);
    const auto ask = [&](auto& disk) {
        return fua ? disk.write(0, data, {.fua = true}) : disk.flush();
    };
    failing_backend disk{here / "disk", {.create = mib}};
    failing::reset();
    // A system without sync_file_range gives these errors.
    for (const int error : {ENOSYS, ENOTSUP, EINVAL, EPERM, ESPIPE}) {
        failing::untold = error;
        CHECK_FALSE(ask(disk));
    }
    failing::untold = ENOSPC;
    CHECK(ask(disk) == std::errc::no_space_on_device);
    CHECK(ask(disk) == std::errc::io_error);
    CHECK(disk.flush() == std::errc::io_error);
    CHECK(failing::syncs == (fua ? 0 : 6));
}

TEST_CASE("backend/file_backend: the witness also gets an error that was reported to another sync")
{
    /// As if another thread's sync had got the error and had not recorded it yet.
    struct deaf : nbd::posix_file {
        static int sync(int file) noexcept { return (void)nbd::posix_file::sync(file), 0; }
        static ssize_t write_durably(int file, const void* from, std::size_t n,
                                     std::uint64_t at) noexcept
        {
            return sync(file), nbd::posix_file::write_durably(file, from, n, at);
        }
    };
    const bool fua = GENERATE(false, true);
    const folder here;
    const auto small = small_place::make(here);
    if (!small)
        NBD_SKIP("no tmpfs can be mounted here");
    // A loop device that accepts every write, on a file system without space.
    make_file(here / "image", 8 * mib);
    const auto loop = loop_device::make(here / "image", 512);
    if (!loop)
        NBD_SKIP("no loop device can be made here");
    nbd::basic_file_backend<deaf> disk{loop->path()};
    CHECK_FALSE(disk.write(0, bytes(256 * kib, std::byte{1})));
    CHECK_FALSE(disk.flush());
    REQUIRE_FALSE(disk.write(0, bytes(4 * mib, std::byte{1})));
    CHECK((fua ? disk.write(0, data, {.fua = true}) : disk.flush()));
    CHECK(disk.flush() == std::errc::io_error);
}

TEST_CASE(
    "backend/file_backend: where the system has no durable writes, FUA is a write and a flush")
{
    const folder here;
    const int error = GENERATE(EOPNOTSUPP, ENOSYS, EINVAL, EPERM);
    failing_backend disk{here / "disk", {.create = mib}};
    failing::reset();
    failing::durable_error = error;
    CHECK_FALSE(disk.write(0, data, {.fua = true}));
    CHECK(failing::writes == 1);
    CHECK(failing::syncs == 1);
    bytes to(4096);
    CHECK_FALSE(disk.read(0, to));
    CHECK((to == data));
    failing::durable_error = error;
    failing::sync_error = EIO;
    CHECK(disk.write(0, data, {.fua = true}) == std::errc::io_error);
    CHECK(disk.flush() == std::errc::io_error);
}

TEST_CASE("backend/file_backend: errors of the system reach the client (P86)")
{
    const folder here;
    failing_backend disk{here / "disk", {.create = mib}};
    failing::reset();
    failing::write_error = EROFS;
    CHECK(disk.write(0, data) == std::errc::read_only_file_system);
    failing::write_error = ESTALE;
    const auto failed = disk.write(0, data);
    CHECK(failed == std::errc::io_error);
    CHECK(failed.text == std::generic_category().message(ESTALE));
    failing::sync_error = ENOSPC;
    CHECK(disk.flush() == std::errc::no_space_on_device);
    CHECK(disk.flush() == std::errc::io_error);
}

TEST_CASE("backend/file_backend: a write past the file size limit is EFBIG, and the part that fits "
          "is written")
{
    ::rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    const folder here;
    file_backend disk{here / "disk", {.create = mib}};
    const auto old = std::signal(SIGXFSZ, SIG_IGN);
    const ::rlimit low{64 * kib, before.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &low) == 0);
    const auto plain = disk.write(60 * kib, pattern(8192));
    const auto durable = disk.write(512 * kib, data, {.fua = true});
    const auto inside = disk.write(0, data, {.fua = true});
    ::setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, old);
    CHECK(plain == std::errc::file_too_large);
    CHECK(plain.offset == 64 * kib);
    CHECK(durable == std::errc::file_too_large);
    CHECK(durable.offset == 512 * kib);
    CHECK_FALSE(inside);
    CHECK_FALSE(disk.flush());
}

TEST_CASE("backend/file_backend: a full file system is ENOSPC, and writes succeed again when there "
          "is space")
{
    const folder here;
    const auto small = small_place::make(here);
    if (!small)
        NBD_SKIP("no tmpfs can be mounted here");
    file_backend disk{here / "disk", {.create = 8 * mib}};
    const auto failed = disk.write(0, bytes(2 * mib, std::byte{1}));
    CHECK(failed == std::errc::no_space_on_device);
    CHECK(failed.offset);
    CHECK(disk.write(4 * mib, data, {.fua = true}) == std::errc::no_space_on_device);
    CHECK_FALSE(disk.trim(0, 2 * mib));
    CHECK_FALSE(disk.write(4 * mib, data, {.fua = true}));
    CHECK_FALSE(disk.flush());
}
