// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/protocol/request.hpp>

#include <array>

using namespace nbd::protocol;
using nbd_test::bytes;
using nbd_test::hex;
using nbd_test::shown;
using nbd_test::operator+;

namespace {
std::optional<request> decode(const bytes& from)
{
    return decode_request(std::span<const std::byte, request_bytes>{from});
}

//                          magic    flags type cookie           offset           length
constexpr auto golden = "25609513 0011 0006 0123456789abcdef 00000000fedcba98 00010000";
constexpr request meant{.flags = command_flag::fua | command_flag::fast_zero,
                        .command = command::write_zeroes,
                        .cookie = 0x0123456789abcdef,
                        .offset = 0xfedcba98,
                        .length = 0x10000};
}  // namespace

static_assert(meant.has(command_flag::fua) && !meant.has(command_flag::no_hole));
// Only a WRITE has a payload (P47).
static_assert(meant.payload() == 0);
static_assert(request{.command = command::write, .length = 0xffffffff}.payload() == 0xffffffff);
static_assert(request{.command = command::read, .length = 9}.payload() == 0);
static_assert(request{.command = static_cast<command>(9), .length = 9}.payload() == 0);

TEST_CASE("protocol/request: a request in hex, both ways (P47)")
{
    CHECK(decode(hex(golden)) == meant);
    std::array<std::byte, request_bytes> to{};
    encode_request(to, meant);
    CHECK(shown(to) == shown(hex(golden)));
}

TEST_CASE("protocol/request: each field is decoded from its bytes, all bits of it")
{
    const request all_ones{.flags = 0xffff,
                           .command = static_cast<command>(0xffff),
                           .cookie = 0xffffffffffffffff,
                           .offset = 0xffffffffffffffff,
                           .length = 0xffffffff};
    CHECK(decode(hex("25609513 ffff ffff ffffffffffffffff ffffffffffffffff ffffffff")) == all_ones);
    CHECK(decode(hex("25609513 0000 0000 0000000000000000 0000000000000000 00000000"))
          == request{});
    CHECK(decode(hex("25609513 0001 0000 0000000000000000 0000000000000000 00000000"))
          == request{.flags = 1});
    CHECK(decode(hex("25609513 0000 0001 0000000000000000 0000000000000000 00000000"))
          == request{.command = command::write});
    CHECK(decode(hex("25609513 0000 0000 0000000000000001 0000000000000000 00000000"))
          == request{.cookie = 1});
    CHECK(decode(hex("25609513 0000 0000 0000000000000000 0000000000000001 00000000"))
          == request{.offset = 1});
    CHECK(decode(hex("25609513 0000 0000 0000000000000000 0000000000000000 00000001"))
          == request{.length = 1});
}

TEST_CASE(
    "protocol/request: any other magic is refused: one bit off, or of another message (P47, P51)")
{
    const auto good = hex(golden);
    for (std::size_t bit = 0; bit < 32; ++bit) {
        auto bad = good;
        bad[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
        CAPTURE(bit);
        CHECK_FALSE(decode(bad));
    }
    for (const auto* const magic : {"67446698", "668e33ef", "21e41c71", "6e8a278c", "12560953",
                                    "96744668", "25609514", "13956025"}) {
        auto bad = hex(magic) + bytes(good.begin() + 4, good.end());
        CAPTURE(magic);
        CHECK_FALSE(decode(bad));
    }
}

TEST_CASE("protocol/request: an encoded request is decoded to the same request")
{
    for (unsigned c = 0; c <= 9; ++c) {
        for (const std::uint64_t at : {0ULL, 1ULL, 0x1'0000'0000ULL, ~0ULL}) {
            const request r{.flags = static_cast<std::uint16_t>(c * 7),
                            .command = static_cast<command>(c),
                            .cookie = ~at,
                            .offset = at,
                            .length = at & 0xffffffff};
            std::array<std::byte, request_bytes> to{};
            encode_request(to, r);
            CHECK(decode_request(to) == r);
        }
    }
}
