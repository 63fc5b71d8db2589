// SPDX-License-Identifier: MIT
// The backend calls of an admitted request: emulated ones, and direct ones.
#include "catch.hpp"
#include "support/bytes.hpp"
#include "support/perform.hpp"
#include "support/recording.hpp"
#include <nbd/transmission/execution.hpp>
#include <nbd/transmission/read_plan.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <system_error>

using namespace nbd_test;
using namespace nbd::protocol;
using nbd_test::perform;
namespace cf = command_flag;

namespace {
const std::error_code eio = std::make_error_code(std::errc::io_error);
const std::error_code enospc = std::make_error_code(std::errc::no_space_on_device);
const std::error_code enotsup = std::make_error_code(std::errc::not_supported);
const std::error_code eopnotsupp = std::make_error_code(std::errc::operation_not_supported);

constexpr nbd::protocol::request make(command c, std::uint64_t offset, std::uint64_t length,
                                      std::uint16_t flags = 0)
{
    return {.flags = flags, .command = c, .cookie = 7, .offset = offset, .length = length};
}
template <class B>
std::error_code run(B& disk, command c, std::uint64_t offset, std::uint64_t length,
                    std::uint16_t flags = 0)
{
    disk.calls.clear();
    const bytes payload(c == command::write ? length : 0, std::byte{1});
    return perform(disk, make(c, offset, length, flags), payload).code;
}

using plain = with_write<recording>;
using flushing = with_flush<plain>;
using native = with_fua_write<recording>;
using native_flushing = with_flush<native>;

struct half {
    std::uint64_t size() const { return 10; }
    void read(std::uint64_t, std::span<std::byte> to) { to.front() = std::byte{1}; }
};
/// Has the first 100 bytes at hand.
struct cached : recording {
    std::size_t read_now(std::uint64_t offset, std::span<std::byte> to) noexcept
    {
        std::fill(to.begin(), to.end(), std::byte{0xca});
        return offset >= 100 ? 0 : std::min<std::size_t>(to.size(), 100 - offset);
    }
};
struct honest : half {
    static constexpr bool fills_reads = true;
};
}  // namespace

TEST_CASE("transmission/execution: a command is one call of its member")
{
    with_cache<with_zeroes<with_trim<flushing>>> disk;
    CHECK_FALSE(run(disk, command::write, 512, 1024));
    CHECK(disk.story() == "write 512+1024");
    CHECK_FALSE(run(disk, command::flush, 0, 0));
    CHECK(disk.story() == "flush");
    CHECK_FALSE(run(disk, command::trim, 1, 0xfffffff));
    CHECK(disk.story() == "trim 1+268435455");
    CHECK_FALSE(run(disk, command::cache, 3, 4));
    CHECK(disk.story() == "cache 3+4");
    CHECK_FALSE(run(disk, command::write_zeroes, 5, 0xfffffff));
    CHECK(disk.story() == "zero 5+268435455");
}

TEST_CASE("transmission/execution: a command whose member the backend lacks is EINVAL")
{
    recording least;
    for (const auto c : {command::write, command::flush, command::trim, command::cache,
                         command::write_zeroes, command::block_status, static_cast<command>(99)}) {
        CHECK(run(least, c, 0, 512) == std::errc::invalid_argument);
        CHECK(least.calls.empty());
    }
}

TEST_CASE("transmission/execution: FUA is a flush after the write, or the backend's own (P60, P69)")
{
    flushing emulated;
    CHECK_FALSE(run(emulated, command::write, 0, 512, cf::fua));
    CHECK(emulated.story() == "write 0+512, flush");

    native own;
    CHECK_FALSE(run(own, command::write, 0, 512, cf::fua));
    CHECK(own.story() == "write! 0+512");
    CHECK_FALSE(run(own, command::write, 0, 512));
    CHECK(own.story() == "write 0+512");

    native_flushing both;
    CHECK_FALSE(run(both, command::write, 0, 512, cf::fua));
    CHECK(both.story() == "write! 0+512");
}

TEST_CASE("transmission/execution: a write or a flush that fails makes FUA fail")
{
    flushing disk;
    disk.write_error = enospc;
    CHECK(run(disk, command::write, 0, 512, cf::fua) == enospc);
    CHECK(disk.story() == "write 0+512");
    disk.write_error = {};
    disk.flush_error = eio;
    CHECK(run(disk, command::write, 0, 512, cf::fua) == eio);
    CHECK_FALSE(run(disk, command::write, 0, 512));
}

TEST_CASE("transmission/execution: TRIM with FUA is followed by a flush (P63, N-20)")
{
    with_trim<flushing> disk;
    CHECK_FALSE(run(disk, command::trim, 0, 512, cf::fua));
    CHECK(disk.story() == "trim 0+512, flush");
    disk.flush_error = eio;
    CHECK(run(disk, command::trim, 0, 512, cf::fua) == eio);
    disk.trim_error = enospc;
    CHECK(run(disk, command::trim, 0, 512, cf::fua) == enospc);
    CHECK(disk.story() == "trim 0+512");
}

TEST_CASE(
    "transmission/execution: TRIM that cannot be made durable does nothing and succeeds (P63)")
{
    with_trim<native> disk;
    CHECK_FALSE(run(disk, command::trim, 0, 512, cf::fua));
    CHECK(disk.story().empty());
    CHECK_FALSE(run(disk, command::trim, 0, 512));
    CHECK(disk.story() == "trim 0+512");
}

TEST_CASE("transmission/execution: WRITE_ZEROES passes its flags on, and FUA is a flush (P65)")
{
    with_zeroes<flushing> disk;
    CHECK_FALSE(run(disk, command::write_zeroes, 0, 512, cf::no_hole));
    CHECK(disk.story() == "zero no_hole 0+512");
    CHECK_FALSE(run(disk, command::write_zeroes, 0, 512, cf::fast_zero));
    CHECK(disk.story() == "zero fast 0+512");
    CHECK_FALSE(run(disk, command::write_zeroes, 0, 512, cf::fast_zero | cf::no_hole | cf::fua));
    CHECK(disk.story() == "zero no_hole fast 0+512, flush");
    disk.zero_error = enospc;
    CHECK(run(disk, command::write_zeroes, 0, 512, cf::fua) == enospc);
    CHECK(disk.story() == "zero 0+512");
}

TEST_CASE("transmission/execution: without flush, WRITE_ZEROES with FUA uses the write's FUA")
{
    with_zeroes<native> disk;
    CHECK_FALSE(run(disk, command::write_zeroes, 0, 70'000, cf::fua));
    CHECK(disk.story() == "write! 0+65536, write! 65536+4464");
    CHECK_FALSE(run(disk, command::write_zeroes, 0, 70'000));
    CHECK(disk.story() == "zero 0+70000");
}

TEST_CASE("transmission/execution: without write_zeroes, zeroes are written in pieces (P65)")
{
    flushing disk;
    CHECK_FALSE(run(disk, command::write_zeroes, 100, 2 * 65536 + 1));
    CHECK(disk.story() == "write 100+65536, write 65636+65536, write 131172+1");
    CHECK(disk.all_zero);
    CHECK_FALSE(run(disk, command::write_zeroes, 100, 65536 + 1, cf::fua));
    CHECK(disk.story() == "write 100+65536, write 65636+1, flush");
    CHECK_FALSE(run(disk, command::write_zeroes, 0, 0, cf::fua));
    CHECK(disk.story().empty());

    native own;
    CHECK_FALSE(run(own, command::write_zeroes, 0, 65536 + 1, cf::fua));
    CHECK(own.story() == "write! 0+65536, write! 65536+1");
}

TEST_CASE("transmission/execution: the first failed write of zeroes is the last")
{
    flushing disk;
    disk.write_error = enospc;
    CHECK(run(disk, command::write_zeroes, 0, 1 << 20, cf::fua) == enospc);
    CHECK(disk.story() == "write 0+65536");
    disk.write_error = {};
    disk.flush_error = eio;
    CHECK(run(disk, command::write_zeroes, 0, 512, cf::fua) == eio);
}

TEST_CASE("transmission/execution: FAST_ZERO is never a slow write, it is ENOTSUP (P65)")
{
    SECTION("no write_zeroes")
    {
        flushing disk;
        CHECK(run(disk, command::write_zeroes, 0, 512, cf::fast_zero) == enotsup);
        CHECK(disk.story().empty());
    }
    SECTION("a write_zeroes that cannot do it now")
    {
        with_zeroes<flushing> disk;
        for (const auto& error : {enotsup, eopnotsupp}) {
            disk.zero_error = error;
            CHECK(run(disk, command::write_zeroes, 0, 512, cf::fast_zero) == enotsup);
            CHECK(disk.story() == "zero fast 0+512");
        }
    }
}

TEST_CASE("transmission/execution: without FAST_ZERO, ENOTSUP means to write the zeroes (P65, P87)")
{
    with_zeroes<flushing> disk;
    for (const auto& error : {enotsup, eopnotsupp}) {
        disk.zero_error = error;
        CHECK_FALSE(run(disk, command::write_zeroes, 0, 512, cf::no_hole));
        CHECK(disk.story() == "zero no_hole 0+512, write 0+512");
        CHECK_FALSE(run(disk, command::write_zeroes, 0, 512, cf::fua));
        CHECK(disk.story() == "zero 0+512, write 0+512, flush");
    }
}

TEST_CASE("transmission/execution: no call goes past the present end")
{
    struct {
        mutable std::uint64_t end = 100;
        std::monostate lock() const { return end /= 2, std::monostate{}; }
        std::uint64_t size() const { return end; }
        std::size_t largest_write() const { return 4096; }
    } const shrinks;
    flushing disk;
    bytes to(10);
    CHECK_FALSE(nbd_test::read(disk, make(command::read, 40, 10), to, shrinks));
    CHECK(disk.story() == "read 40+10");
    disk.calls.clear();
    CHECK(nbd_test::read(disk, make(command::read, 16, 10), to, shrinks)
          == std::errc::no_space_on_device);
    CHECK(disk.story().empty());
    shrinks.end = 0;
    CHECK_FALSE(perform(disk, make(command::flush, 0, 0), {}, shrinks));
    CHECK(disk.story() == "flush");
}

TEST_CASE("transmission/execution: a READ is one call")
{
    recording disk;
    bytes to(10, std::byte{0xee});
    CHECK_FALSE(nbd_test::read(disk, make(command::read, 42, 10), to));
    CHECK(disk.story() == "read 42+10");
    CHECK(shown(to) == "5a5a5a5a 5a5a5a5a 5a5a");
    disk.read_error = eio;
    CHECK(nbd_test::read(disk, make(command::read, 42, 10), to) == eio);
}

TEST_CASE("transmission/execution: bytes that a READ does not fill are sent as zero, not as old "
          "memory (N-15)")
{
    bytes to(6, std::byte{0xee});
    half careless;
    CHECK_FALSE(nbd_test::read(careless, make(command::read, 0, 6), to));
    CHECK(shown(to) == "01000000 0000");

    to.assign(6, std::byte{0xee});
    honest promises;
    CHECK_FALSE(nbd_test::read(promises, make(command::read, 0, 6), to));
    CHECK(shown(to) == "01eeeeee eeee");
}

TEST_CASE("transmission/execution: what a backend has at hand needs no other call")
{
    struct {
        std::uint64_t end = 1000;
        std::uint64_t size() const { return end; }
    } guard;
    cached disk;
    bytes to(50);
    nbd::transmission::read_plan<cached> plan;
    const auto is_over = [&](std::uint64_t offset) {
        const auto r = make(command::read, offset, to.size());
        plan.begin(r, false);
        return nbd::transmission::make_now(
            disk, plan, [&] { return nbd::transmission::request_data{.request = &r, .data = to}; },
            guard);
    };
    CHECK(is_over(50));
    CHECK_FALSE(plan.result());
    CHECK(to == bytes(50, std::byte{0xca}));
    // A part is not enough, and the whole call is left.
    CHECK_FALSE(is_over(51));
    REQUIRE(plan.next());
    CHECK((plan.next()->offset == 51 && plan.next()->length == 50));
    // The export has become smaller.
    guard.end = 60;
    CHECK_FALSE(is_over(50));
    CHECK(disk.story().empty());
}

TEST_CASE("transmission/execution: a long request can be abandoned between two calls (P65)")
{
    with_trim<recording> disk;
    const auto r = make(command::trim, 0, 600 << 20);
    nbd::transmission::plan<with_trim<recording>> plan{r, std::uint64_t(-1)};
    std::uint64_t made = 0;
    const auto over = [&](std::uint64_t length) {
        made += length;
        return made > (300 << 20);
    };
    const auto data = [&] { return nbd::transmission::request_data{.request = &r}; };
    while (!nbd::transmission::make_some(disk, plan, data, unguarded{}, over)) {
    }
    CHECK(disk.story() == "trim 0+268435456");
    CHECK(plan.result().code == std::error_code{ESHUTDOWN, std::generic_category()});
}
