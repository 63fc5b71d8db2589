// SPDX-License-Identifier: MIT
#include "backend/file_support.hpp"
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/backend/file_device.hpp>

using nbd::file_device;
using namespace nbd_test;

namespace {

void fill(int file, std::uint64_t offset, std::size_t length)
{
    const bytes data(length, std::byte{0x5a});
    REQUIRE(nbd::posix_file::write(file, data.data(), length, offset)
            == static_cast<ssize_t>(length));
}
template <class Device>
bytes content(const Device& disk)
{
    bytes all(disk.size());
    REQUIRE(nbd::posix_file::read(disk.descriptor(), all.data(), all.size(), 0)
            == static_cast<ssize_t>(all.size()));
    return all;
}

/// A system that lacks some operations, and counts the calls.
struct lacking : nbd::posix_file {
    static inline int punches = 0;
    static inline int zeroings = 0;
    static inline int error = EOPNOTSUPP;
    static int punch(int, std::uint64_t, std::uint64_t) noexcept
    {
        return ++punches, errno = error, -1;
    }
    static int zero(int, std::uint64_t, std::uint64_t) noexcept
    {
        return ++zeroings, errno = error, -1;
    }
    static int will_need(int, std::uint64_t, std::uint64_t) noexcept { return errno = error, -1; }
    static off_t next_data(int, std::uint64_t) noexcept { return errno = error, -1; }
};
/// A query for a file's size succeeds, and sets errno.
struct leaves_errno : nbd::posix_file {
    static std::uint64_t size(int file) noexcept
    {
        const auto bytes = nbd::posix_file::size(file);
        errno = ENOTTY;
        return bytes;
    }
};
/// A page cache that holds the first 4 KiB.
struct half_cached : nbd::posix_file {
    static inline int attempts = 0;
    static inline int error = 0;
    static ssize_t read_now(int file, void* to, std::size_t n, std::uint64_t at) noexcept
    {
        ++attempts;
        if (at >= 4096)
            error = EAGAIN;
        return error != 0 ? (errno = error, -1) : read(file, to, std::min(n, 4096 - at), at);
    }
};
struct only_zeroes : nbd::posix_file {
    static int punch(int, std::uint64_t, std::uint64_t) noexcept { return errno = EOPNOTSUPP, -1; }
    static inline int zeroings = 0;
    static int zero(int, std::uint64_t, std::uint64_t) noexcept { return ++zeroings, 0; }
};
/// Treats a file as a block device with sectors of 512 bytes.
struct device_like : nbd::posix_file {
    static inline std::vector<std::pair<std::uint64_t, std::uint64_t>> discarded{}, zeroed{};
    static inline int punch_error = EOPNOTSUPP;
    static inline int discard_error = 0;
    static int facts(int file, nbd::file_facts& to) noexcept
    {
        const int done = nbd::posix_file::facts(file, to);
        to.device = true;
        to.sector = 512;
        return done;
    }
    static int discard(int, std::uint64_t at, std::uint64_t length)
    {
        if (discard_error != 0)
            return errno = discard_error, -1;
        return discarded.emplace_back(at, length), 0;
    }
    static int punch(int, std::uint64_t, std::uint64_t) noexcept
    {
        return punch_error == 0 ? 0 : (errno = punch_error, -1);
    }
    static int zero(int, std::uint64_t, std::uint64_t) noexcept { return errno = EIO, -1; }
    static int zero_device(int, std::uint64_t at, std::uint64_t length)
    {
        return zeroed.emplace_back(at, length), 0;
    }
};

/// An old disk: seeks are expensive, and it has no TRIM.
struct rotating_device : device_like {
    static int facts(int file, nbd::file_facts& to) noexcept
    {
        const int done = device_like::facts(file, to);
        to.rotational = true;
        to.discards = false;
        return done;
    }
};

/// The two kinds of file systems that every Linux system has.
std::vector<std::string> places()
{
    std::vector<std::string> all{"/tmp"};
    if (std::filesystem::is_directory("/dev/shm"))
        all.emplace_back("/dev/shm");
    return all;
}

}  // namespace

TEST_CASE("backend/file_device: an errno left by an earlier call does not turn a hole into data")
{
    const folder here;
    nbd::basic_file_device<leaves_errno> disk{here / "disk", {.create = mib}};
    nbd::extent_list to;
    to.begin(mib, 10);
    REQUIRE_FALSE(disk.extents(0, mib, to));
    REQUIRE(to.extents().size() == 1);
    CHECK((to.extents()[0].flags & nbd::protocol::state_flag::hole) != 0);
}

TEST_CASE("backend/file_device: size, kind, alignment and block sizes of a file")
{
    const folder here;
    make_file(here / "file", 12345);
    const file_device disk{here / "file"};
    CHECK(disk.size() == 12345);
    CHECK_FALSE((disk.read_only() || disk.direct() || disk.is_block_device()));
    const auto can = disk.abilities();
    CHECK((can.trim && can.resize && can.write_zeroes && can.flush));
    CHECK_FALSE((can.read_only || can.rotational));
    CHECK(disk.alignment() == 1);
    CHECK(disk.memory_alignment() == 1);
    CHECK(disk.aligned(1, 3));
    CHECK(nbd::protocol::valid(disk.block_sizes()));
    CHECK(disk.block_sizes().minimum == 1);
    CHECK(disk.lend(77).file == disk.descriptor());
    CHECK(disk.lend(77).offset == 77);
}

TEST_CASE("backend/file_device: direct I/O has a block size and lends nothing")
{
    const folder here;
    make_file(here / "file", 64 * kib);
    std::optional<file_device> disk;
    try {
        disk.emplace(here / "file", nbd::file_settings{.direct = true});
    } catch (const std::system_error& e) {
        NBD_SKIP(e.what());
    }
    CHECK(disk->alignment() >= 512);
    CHECK(disk->block_sizes().minimum == disk->alignment());
    CHECK(nbd::protocol::valid(disk->block_sizes()));
    CHECK(disk->aligned(disk->alignment(), 2 * disk->alignment()));
    CHECK_FALSE(disk->aligned(1, disk->alignment()));
    CHECK_FALSE(disk->aligned(0, disk->alignment() - 1));
    CHECK_FALSE(disk->aligned(reinterpret_cast<const void*>(std::uintptr_t{1})));
    CHECK(disk->lend(0).file == -1);
    CHECK(disk->resize(disk->alignment() + 1) == std::errc::invalid_argument);
    CHECK_FALSE(disk->resize(disk->alignment()));
}

TEST_CASE("backend/file_device: trim and zeroes change only their range (N-09, P65)")
{
    const auto& place = GENERATE(from_range(places()));
    CAPTURE(place);
    const folder here{place};
    make_file(here / "file", 256 * kib);
    file_device disk{here / "file"};
    struct change {
        bool trims;
        nbd::zero_flags flags;
    };
    for (const auto& [trims, flags] :
         {change{true, {}}, change{false, {}}, change{false, {.no_hole = true}},
          change{false, {.fast = true}}, change{false, {.no_hole = true, .fast = true}}}) {
        CAPTURE(trims, flags.no_hole, flags.fast);
        fill(disk.descriptor(), 0, 256 * kib);
        const auto before = stored(here / "file");
        const auto failed =
            trims ? disk.trim(5000, 100'000) : disk.write_zeroes(5000, 100'000, flags);
        const auto now = content(disk);
        if (failed) {
            // A file system that lacks the operation changes nothing.
            CHECK(failed == std::errc::not_supported);
            CHECK_FALSE(trims);
            CHECK(is_all(now, 0x5a));
            continue;
        }
        const auto part = std::span{now}.subspan(5000, 100'000);
        if (!trims || !is_all(part, 0x5a))
            CHECK(is_all(part));
        CHECK(is_all(std::span{now}.first(5000), 0x5a));
        CHECK(is_all(std::span{now}.subspan(105'000), 0x5a));
        if (flags.no_hole)
            CHECK(stored(here / "file") >= before);
    }
    CHECK_FALSE(disk.write_zeroes(5, 0, {}));
    CHECK_FALSE(disk.trim(5, 0));
    CHECK(disk.size() == 256 * kib);
    CHECK(std::filesystem::file_size(here / "file") == 256 * kib);
}

TEST_CASE("backend/file_device: an operation that the file system lacks is tried once")
{
    const folder here;
    make_file(here / "file", 64 * kib);
    using device = nbd::basic_file_device<lacking>;
    {
        device disk{here / "file"};
        lacking::punches = lacking::zeroings = 0;
        for (int i = 0; i < 2; ++i) {
            CHECK(disk.write_zeroes(0, 4096, {}) == std::errc::not_supported);
            CHECK(disk.write_zeroes(0, 4096, {.no_hole = true}) == std::errc::not_supported);
            CHECK(disk.write_zeroes(0, 4096, {.fast = true}) == std::errc::not_supported);
            CHECK_FALSE(disk.trim(0, 4096));
        }
        CHECK(lacking::punches == 1);
        CHECK(lacking::zeroings == 1);
        auto moved = std::move(disk);
        CHECK_FALSE(moved.trim(0, 4096));
        CHECK(lacking::punches == 1);
        CHECK_FALSE(moved.cache(0, 4096));
        CHECK(parts(moved, 100, 1000) == "100..1100 data");
    }
    // Other failures are errors, and the operation is tried again.
    device disk{here / "file"};
    lacking::error = ENOSPC;
    for (int i = 0; i < 2; ++i) {
        CHECK(disk.trim(0, 4096) == std::errc::no_space_on_device);
        CHECK(disk.write_zeroes(0, 4096, {}) == std::errc::no_space_on_device);
        CHECK(disk.write_zeroes(0, 4096, {.no_hole = true}) == std::errc::no_space_on_device);
        CHECK(disk.cache(0, 4096) == std::errc::no_space_on_device);
    }
    // EINVAL and ENODEV concern this range or this kind of file: trim does nothing, the server
    // writes the zeroes, and both operations are tried again.
    for (const int error : {EINVAL, ENODEV}) {
        lacking::error = error;
        lacking::punches = lacking::zeroings = 0;
        for (int i = 1; i <= 2; ++i) {
            CHECK_FALSE(disk.trim(0, 4096));
            CHECK(disk.write_zeroes(0, 4096, {}) == std::errc::not_supported);
            CHECK(lacking::punches == 2 * i);
            CHECK(lacking::zeroings == i);
        }
    }
    lacking::error = EOPNOTSUPP;
    // Zeroes that keep their storage replace a hole.
    nbd::basic_file_device<only_zeroes> other{here / "file", {.lock = nbd::file_lock::off}};
    CHECK_FALSE(other.write_zeroes(0, 4096, {.fast = true}));
    CHECK(only_zeroes::zeroings == 1);
}

TEST_CASE("backend/file_device: a device is trimmed and zeroed in whole sectors")
{
    using ranges = std::vector<std::pair<std::uint64_t, std::uint64_t>>;
    const folder here;
    make_file(here / "file", 64 * kib);
    nbd::basic_file_device<device_like> disk{here / "file"};
    CHECK(disk.is_block_device());
    CHECK_FALSE(disk.trim(511, 1026));
    CHECK_FALSE(disk.trim(0, 512));
    CHECK_FALSE(disk.trim(513, 600));
    CHECK_FALSE(disk.trim(1, 511));
    CHECK(device_like::discarded == ranges{{512, 1024}, {0, 512}});

    // The device can write zeroes, which is not fast. A part of a sector is left to the server.
    CHECK(disk.write_zeroes(512, 1024, {.fast = true}) == std::errc::not_supported);
    CHECK(disk.write_zeroes(512, 1024, {.no_hole = true, .fast = true})
          == std::errc::not_supported);
    CHECK(disk.write_zeroes(0, 100, {}) == std::errc::not_supported);
    CHECK(disk.write_zeroes(100, 512, {.no_hole = true}) == std::errc::not_supported);
    CHECK(device_like::zeroed.empty());
    CHECK_FALSE(disk.write_zeroes(512, 1024, {}));
    CHECK_FALSE(disk.write_zeroes(1024, 512, {.no_hole = true}));
    CHECK(device_like::zeroed == ranges{{512, 1024}, {1024, 512}});
    // A device without holes may still discard.
    CHECK_FALSE(disk.trim(1024, 512));
    CHECK(device_like::discarded == ranges{{512, 1024}, {0, 512}, {1024, 512}});
    for (const int error : {EOPNOTSUPP, EINVAL}) {
        device_like::discard_error = error;
        CHECK_FALSE(disk.trim(0, 512));
    }
    device_like::discard_error = EIO;
    CHECK(disk.trim(0, 512) == std::errc::io_error);
    device_like::discard_error = 0;
    // If it has holes, they are fast.
    nbd::basic_file_device<device_like> sparse{here / "file", {.lock = nbd::file_lock::off}};
    device_like::punch_error = 0;
    CHECK_FALSE(sparse.write_zeroes(0, 1024, {.fast = true}));
    CHECK_FALSE(sparse.write_zeroes(0, 1024, {}));
    CHECK(device_like::zeroed.size() == 2);
    CHECK(sparse.resize(kib) == std::errc::not_supported);
    CHECK(sparse.size() == 64 * kib);
}

TEST_CASE("backend/file_device: extents are the file's holes (P84)")
{
    const auto& place = GENERATE(from_range(places()));
    CAPTURE(place);
    const folder here{place};
    make_file(here / "file", 16 * mib);
    file_device disk{here / "file"};
    if (parts(disk, 0, 16 * mib) != "0..16777216 hole")
        NBD_SKIP(place + " does not tell where holes are");
    fill(disk.descriptor(), 5 * mib, 100);
    const auto page = std::to_string(5 * mib + 4096);
    CHECK(parts(disk, 0, 16 * mib)
          == "0..5242880 hole, 5242880.." + page + " data, " + page + "..16777216 hole");
    CHECK(parts(disk, 5 * mib + 10, 20) == "5242890..5242910 data");
    CHECK(parts(disk, 5 * mib - 1, 2) == "5242879..5242880 hole, 5242880..5242881 data");
    CHECK(parts(disk, 16 * mib - 1, 1) == "16777215..16777216 hole");
    CHECK(parts(disk, 0, 16 * mib, 1) == "0..5242880 hole");
    fill(disk.descriptor(), 16 * mib - 5, 5);
    CHECK(parts(disk, 15 * mib, mib) == "15728640..16773120 hole, 16773120..16777216 data");
    // Behind the end of a file that another program truncated is an error, not a hole.
    std::filesystem::resize_file(here / "file", 8 * mib);
    const auto error = std::generic_category().message(EIO);
    CHECK(parts(disk, 0, 16 * mib) == error);
    CHECK(parts(disk, 10 * mib, mib) == error);
    CHECK(parts(disk, 6 * mib, 2 * mib) == "6291456..8388608 hole");
}

TEST_CASE("backend/file_device: a file that shrinks and grows again reads as zero there")
{
    const folder here;
    make_file(here / "file", 64 * kib);
    file_device disk{here / "file"};
    fill(disk.descriptor(), 0, 64 * kib);
    CHECK_FALSE(disk.resize(1001));
    CHECK(disk.size() == 1001);
    CHECK(std::filesystem::file_size(here / "file") == 1001);
    CHECK_FALSE(disk.resize(64 * kib));
    const auto now = content(disk);
    CHECK(is_all(std::span{now}.first(1001), 0x5a));
    CHECK(is_all(std::span{now}.subspan(1001)));
    CHECK(disk.resize(~std::uint64_t{0}));
    CHECK(disk.size() == 64 * kib);
    // The same holds for bytes that a write in progress leaves behind the new end.
    CHECK_FALSE(disk.resize(4 * kib));
    fill(disk.descriptor(), 8 * kib, 4 * kib);
    CHECK_FALSE(disk.resize(64 * kib));
    const auto again = content(disk);
    CHECK(is_all(std::span{again}.subspan(4 * kib)));
}

TEST_CASE("backend/file_device: a read-only file does not change")
{
    const folder here;
    make_file(here / "file", 64 * kib);
    file_device disk{here / "file", {.read_only = true}};
    CHECK(disk.abilities().read_only);
    CHECK(disk.trim(0, 4096) == std::errc::read_only_file_system);
    CHECK(disk.write_zeroes(0, 4096, {}) == std::errc::read_only_file_system);
    CHECK(disk.resize(1) == std::errc::read_only_file_system);
    CHECK_FALSE(disk.cache(0, 4096));
    CHECK(std::filesystem::file_size(here / "file") == 64 * kib);
}

TEST_CASE("backend/file_device: a failed sync stays failed after the device was moved")
{
    const folder here;
    make_file(here / "file", 4096);
    file_device disk{here / "file"};
    CHECK_FALSE(disk.sync_state());
    CHECK(disk.sync_failed(ENOSPC) == std::errc::no_space_on_device);
    CHECK(disk.sync_failed(EROFS) == std::errc::read_only_file_system);
    auto moved = std::move(disk);
    file_device other{here / "file", {.lock = nbd::file_lock::off}};
    CHECK_FALSE(other.sync_state());
    other = std::move(moved);
    const auto said = other.sync_state();
    CHECK(said == std::errc::io_error);
    // the first error, which was the cause
    CHECK_THAT(said.text,
               Catch::Matchers::ContainsSubstring(std::generic_category().message(ENOSPC)));
    CHECK(said.text.size() <= 256);
}

TEST_CASE("backend/file_device: read_now reads what the page cache holds")
{
    const folder here;
    nbd::basic_file_device<half_cached> disk{here / "file", {.create = 64 * kib}};
    fill(disk.descriptor(), 0, 64 * kib);
    bytes to(8192);
    CHECK(disk.read_now(1024, to) == 3072);
    CHECK(bytes(to.begin(), to.begin() + 3072) == bytes(3072, std::byte{0x5a}));
    CHECK(disk.read_now(8192, to) == 0);
    CHECK(half_cached::attempts == 2);

    // Once the file system has refused it, it is not tried again.
    half_cached::error = EOPNOTSUPP;
    CHECK(disk.read_now(0, to) == 0);
    half_cached::error = 0;
    CHECK(disk.read_now(0, to) == 0);
    CHECK(half_cached::attempts == 3);

    nbd::basic_file_device<half_cached> moved{std::move(disk)};
    CHECK(moved.read_now(0, to) == 0);
    CHECK(half_cached::attempts == 3);
}
