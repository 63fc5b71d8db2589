// SPDX-License-Identifier: MIT
#include "support/bytes.hpp"

#include "catch.hpp"
#include <nbd/protocol/bytes.hpp>

#include <array>
#include <limits>

using namespace nbd::protocol;
using nbd_test::hex;
using nbd_test::shown;

TEST_CASE("protocol/bytes: integers are big-endian, at any alignment (P1)")
{
    const auto data = hex("ff 0102030405060708");
    const std::span<const std::byte> odd = std::span{data}.subspan(1);
    CHECK(load<std::uint8_t>(odd) == 0x01);
    CHECK(load<std::uint16_t>(odd) == 0x0102);
    CHECK(load<std::uint32_t>(odd) == 0x01020304);
    CHECK(load<std::uint64_t>(odd) == 0x0102030405060708);

    std::array<std::byte, 9> to{};
    store<std::uint64_t>(std::span{to}.subspan(1), 0x0102030405060708);
    CHECK(shown(to) == "00010203 04050607 08");
    store<std::uint16_t>(to, 0xfffe);
    CHECK(shown(std::span{to}.first(3)) == "fffe02");
}

TEST_CASE("protocol/bytes: a reader returns field after field and counts the rest")
{
    const auto data = hex("01 0203 04050607 61626364");
    reader in{data};
    CHECK(in.take<std::uint8_t>() == 1);
    CHECK(in.take<std::uint16_t>() == 0x0203);
    CHECK(in.take<std::uint32_t>() == 0x04050607);
    CHECK(in.left() == 4);
    CHECK(in.take_string(3) == "abc");
    CHECK(shown(in.take_bytes(1)) == "64");
    CHECK(in.ok());
    CHECK(in.left() == 0);
    CHECK(in.take_bytes(0).empty());
    CHECK(in.ok());
}

TEST_CASE("protocol/bytes: a read past the end fails, and so does every later read")
{
    const auto data = hex("0102 0304");
    reader in{data};
    CHECK(in.take<std::uint64_t>() == 0);
    CHECK_FALSE(in.ok());
    CHECK(in.take<std::uint8_t>() == 0);
    CHECK(in.take_string(1).empty());
    CHECK(in.take_bytes(0).empty());
    CHECK_FALSE(in.ok());
}

TEST_CASE("protocol/bytes: the largest length does not wrap a reader")
{
    const auto data = hex("01020304");
    reader in{data};
    CHECK(in.take<std::uint8_t>() == 1);
    CHECK(in.take_bytes(std::numeric_limits<std::size_t>::max()).empty());
    CHECK_FALSE(in.ok());
    CHECK(in.left() == 3);
}

TEST_CASE("protocol/bytes: an empty reader")
{
    reader in{{}};
    CHECK(in.ok());
    CHECK(in.left() == 0);
    CHECK(in.take_string(0).empty());
    CHECK(in.ok());
    CHECK(in.take<std::uint16_t>() == 0);
    CHECK_FALSE(in.ok());
}

TEST_CASE("protocol/bytes: a writer puts fields, enumerators and text one after the other")
{
    enum class word : std::uint16_t { one = 0x0a0b };
    std::array<std::byte, 16> to{};
    writer{to}
        .put(std::uint8_t{1})
        .put(word::one)
        .put(std::uint32_t{0xdeadbeef})
        .put_text("")
        .put_text("xyz")
        .put(std::uint32_t{2});
    CHECK(shown(to) == "010a0bde adbeef78 797a0000 00020000");
}
