// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/protocol/chunk.hpp>

#include <array>

using namespace nbd::protocol;
using nbd_test::hex;
using nbd_test::shown;

static_assert(chunk_bytes(reply_style::structured) == 20);
static_assert(chunk_bytes(reply_style::extended) == 32);
static_assert(request_bytes_of(reply_style::simple) == 28);
static_assert(request_bytes_of(reply_style::structured) == 28);
static_assert(request_bytes_of(reply_style::extended) == 32);

TEST_CASE("protocol/chunk: a structured chunk's header in hex (P49)")
{
    std::array<std::byte, 20> to{};
    encode_chunk(to, reply_style::structured,
                 {.flags = reply_flag::done,
                  .type = chunk::error_offset,
                  .cookie = 0x0123456789abcdef,
                  .offset = 0xffffffffffffffff,
                  .length = 0xfedcba98});
    //                         magic    flg type cookie           length
    CHECK(shown(to) == shown(hex("668e33ef 0001 8002 0123456789abcdef fedcba98")));
}

TEST_CASE("protocol/chunk: an extended chunk's header in hex, with offset and 64-bit length (P50)")
{
    std::array<std::byte, 32> to{};
    encode_chunk(to, reply_style::extended,
                 {.flags = 0,
                  .type = chunk::block_status_ext,
                  .cookie = 0xfedcba9876543210,
                  .offset = 0x0011223344556677,
                  .length = 0x8899aabbccddeeff});
    CHECK(shown(to)
          == shown(hex("6e8a278c 0000 0006 fedcba9876543210 0011223344556677 8899aabbccddeeff")));
}

TEST_CASE("protocol/chunk: every type has the specification's value (P56)")
{
    const auto type_of = [](chunk type) {
        std::array<std::byte, 20> to{};
        encode_chunk(to, reply_style::structured, {.type = type});
        return load<std::uint16_t>(std::span{to}.subspan<6, 2>());
    };
    CHECK(type_of(chunk::none) == 0);
    CHECK(type_of(chunk::offset_data) == 1);
    CHECK(type_of(chunk::offset_hole) == 2);
    CHECK(type_of(chunk::block_status) == 5);
    CHECK(type_of(chunk::block_status_ext) == 6);
    CHECK(type_of(chunk::error) == 0x8001);
    CHECK(type_of(chunk::error_offset) == 0x8002);
}

TEST_CASE("protocol/chunk: bytes behind the header stay as they are")
{
    std::array<std::byte, 40> to{};
    to.fill(std::byte{0xee});
    encode_chunk(to, reply_style::structured, {});
    CHECK(to[19] == std::byte{0});
    CHECK(to[20] == std::byte{0xee});
    encode_chunk(to, reply_style::extended, {});
    CHECK(to[31] == std::byte{0});
    CHECK(to[32] == std::byte{0xee});
}
