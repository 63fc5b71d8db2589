// SPDX-License-Identifier: MIT
#include "backend/file_support.hpp"
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/backend/file_backend.hpp>
#include <nbd/concepts/diagnosis.hpp>
#include <nbd/transmission/capabilities.hpp>

#include <fstream>
#include <random>
#include <thread>

using nbd::file_backend;
using namespace nbd_test;
using namespace nbd::protocol::transmission_flag;

static_assert(nbd::backend<file_backend> && nbd::diagnosis::backend_is_sound<file_backend>());
static_assert(nbd::has_fua_write<file_backend> && nbd::has_lend_file<file_backend>);
static_assert(nbd::has_read_now<file_backend>);
static_assert(nbd::promises_blocks<file_backend> && nbd::promises_fills_reads<file_backend>);
static_assert(nbd::concurrency_of<file_backend>() == nbd::concurrency::parallel);
static_assert(nbd::transmission::capabilities<file_backend>()
              == (has_flags | send_flush | send_fua | send_trim | send_write_zeroes | send_fast_zero
                  | send_cache | can_multi_conn | send_resize));
static_assert(!std::is_copy_constructible_v<file_backend>
              && std::is_move_constructible_v<file_backend>
              && std::is_move_assignable_v<file_backend>);

namespace {

bytes in_file(const std::string& path)
{
    bytes all(std::filesystem::file_size(path));
    std::ifstream{path, std::ios::binary}.read(reinterpret_cast<char*>(all.data()),
                                               static_cast<std::streamsize>(all.size()));
    return all;
}

}  // namespace

TEST_CASE("backend/file_backend: reads what was written, where it was written")
{
    const auto& [place, direct] = GENERATE(from_range(kinds()));
    CAPTURE(place, direct);
    if (!std::filesystem::is_directory(place))
        NBD_SKIP("there is no " + place);
    const folder here{place};
    auto disk = disk_of<file_backend>(here, direct, 8 * mib);
    if (!disk)
        NBD_SKIP(place + " has no direct I/O");
    CHECK(disk->size() == 8 * mib);
    const auto block = disk->block_sizes().minimum;
    CHECK((block > 1) == direct);

    // Random blocks, from memory at any address, durable or not, compared with a model.
    std::mt19937 random{20};  // the same on every run
    bytes model(8 * mib);
    bytes memory(4 * mib + 64);
    for (unsigned i = 0; i < 100; ++i) {
        const auto most = i % 10 == 0 ? std::size_t{3 * mib} : std::size_t{64 * kib};
        const auto length = random() % (most / block) * block + (direct ? block : 1);
        const auto offset = random() % ((8 * mib - length) / block + 1) * block;
        const auto to = std::span{memory}.subspan(random() % 64, length);
        CAPTURE(i, offset, length);
        if (random() % 2 == 0) {
            const auto data = pattern(length, i);
            std::copy(data.begin(), data.end(), to.begin());
            std::copy(data.begin(), data.end(),
                      model.begin() + static_cast<std::ptrdiff_t>(offset));
            REQUIRE_FALSE(disk->write(offset, to, {.fua = random() % 8 == 0}));
        } else {
            std::fill(to.begin(), to.end(), std::byte{0xee});
            REQUIRE_FALSE(disk->read(offset, to));
            REQUIRE(std::equal(to.begin(), to.end(),
                               model.begin() + static_cast<std::ptrdiff_t>(offset)));
        }
    }
    CHECK_FALSE(disk->flush());
    CHECK_FALSE(disk->cache(0, 8 * mib));
    CHECK((in_file(here / "disk") == model));
    // Another object of the same file sees it, and so does one that the disk is moved to.
    const auto moved = std::move(disk);
    file_backend other{here / "disk", {.read_only = true, .lock = nbd::file_lock::off}};
    bytes all(8 * mib);
    CHECK_FALSE(other.read(0, all));
    CHECK((all == model));
    CHECK(moved->size() == 8 * mib);
}

TEST_CASE("backend/file_backend: misaligned direct I/O is refused and changes nothing")
{
    const folder here;
    auto disk = disk_of<file_backend>(here, true, mib);
    if (!disk)
        NBD_SKIP("/tmp has no direct I/O");
    const auto block = disk->block_sizes().minimum;
    CHECK_FALSE(disk->write(0, bytes(mib, std::byte{0x5a})));
    bytes memory(2 * block + 64);
    for (const std::size_t shift : {0u, 1u}) {
        auto* const at =
            memory.data() + 64 + shift - reinterpret_cast<std::uintptr_t>(memory.data()) % 64;
        CHECK(disk->write(1, {at, block}) == std::errc::invalid_argument);
        CHECK(disk->write(0, {at, block - 1}) == std::errc::invalid_argument);
        CHECK(disk->write(0, {at, block - 1}, {.fua = true}) == std::errc::invalid_argument);
        CHECK(disk->read(1, {at, block}) == std::errc::invalid_argument);
    }
    CHECK(is_all(in_file(here / "disk"), 0x5a));
    CHECK_FALSE(disk->flush());
}

TEST_CASE("backend/file_backend: lend_file returns the place in the file, except with direct I/O")
{
    const folder here;
    make_file(here / "disk", mib);
    file_backend disk{here / "disk"};
    CHECK_FALSE(disk.write(5000, text("lent")));
    const auto at = disk.lend_file(5000, 4);
    std::string to(4, ' ');
    REQUIRE(::pread(at.file, to.data(), 4, static_cast<off_t>(at.offset)) == 4);
    CHECK(to == "lent");
    const folder there;
    auto direct = disk_of<file_backend>(there, true, mib);
    if (!direct)
        NBD_SKIP("/tmp has no direct I/O");
    CHECK(direct->lend_file(0, mib).file == -1);
}

TEST_CASE("backend/file_backend: trim, zeroes, extents and resize reach the file")
{
    const folder here;
    make_file(here / "disk", mib);
    file_backend disk{here / "disk"};
    CHECK_FALSE(disk.write(0, bytes(mib, std::byte{0x5a})));
    CHECK(parts(disk, 0, mib) == "0..1048576 data");
    if (disk.write_zeroes(64 * kib, 64 * kib, {}) == std::errc::not_supported)
        NBD_SKIP("the file system of /tmp has no holes");
    CHECK_FALSE(disk.trim(256 * kib, 64 * kib));
    CHECK(parts(disk, 0, mib)
          == "0..65536 data, 65536..131072 hole, 131072..262144 data, 262144..327680 hole, "
             "327680..1048576 data");
    bytes to(64 * kib, std::byte{0xee});
    CHECK_FALSE(disk.read(64 * kib, to));
    CHECK(is_all(to));
    CHECK_FALSE(disk.resize(2 * mib));
    CHECK(disk.size() == 2 * mib);
    CHECK(std::filesystem::file_size(here / "disk") == 2 * mib);
}

TEST_CASE("backend/file_backend: a read-only disk can only be read (P87)")
{
    const folder here;
    make_file(here / "disk", mib);
    file_backend{here / "disk"}.write(10, text("kept"));
    file_backend disk{here / "disk", {.read_only = true}};
    bytes to(4);
    CHECK_FALSE(disk.read(10, to));
    CHECK(as_text(to) == "kept");
    CHECK(disk.write(10, to) == std::errc::read_only_file_system);
    CHECK(disk.write(10, to, {.fua = true}) == std::errc::read_only_file_system);
    CHECK(disk.trim(0, mib) == std::errc::read_only_file_system);
    CHECK(disk.write_zeroes(0, mib, {}) == std::errc::read_only_file_system);
    CHECK(disk.resize(0) == std::errc::read_only_file_system);
    CHECK_FALSE(disk.flush());
    CHECK(disk.abilities().read_only);
    CHECK_FALSE(file_backend{here / "disk", {.lock = nbd::file_lock::off}}.abilities().read_only);
    const auto left = in_file(here / "disk");
    CHECK(as_text(std::span{left}.subspan(10, 4)) == "kept");
}

TEST_CASE("backend/file_backend: many threads read and write different ranges at the same time")
{
    const auto direct = GENERATE(false, true);
    const folder here;
    auto disk = disk_of<file_backend>(here, direct, 16 * mib);
    if (!disk)
        NBD_SKIP("/tmp has no direct I/O");
    std::atomic<unsigned> wrong = 0;
    std::vector<std::thread> all;
    for (unsigned t = 0; t < 4; ++t) {
        all.emplace_back([&, t] {
            bytes memory(64 * kib + 1), to(64 * kib);
            for (unsigned i = 0; i < 50; ++i) {
                const auto data = pattern(64 * kib, t * 100 + i);
                const std::uint64_t at = t * 4 * mib + i % 60 * 64 * kib;
                std::copy(data.begin(), data.end(), memory.begin() + 1);
                wrong += disk->write(at, std::span{memory}.subspan(1), {.fua = i % 10 == 0})
                    || disk->read(at, to) || to != data || (i % 20 == 0 && disk->flush());
                nbd::extent_list extents;
                extents.begin(mib, 10);
                wrong += disk->extents(t * 4 * mib, mib, extents) || extents.empty();
            }
        });
    }
    for (auto& t : all)
        t.join();
    CHECK(wrong == 0);
}
