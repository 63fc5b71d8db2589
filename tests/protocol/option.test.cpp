// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/protocol/option.hpp>

#include <array>
#include <string>

using namespace nbd::protocol;
using nbd_test::big;
using nbd_test::bytes;
using nbd_test::hex;
using nbd_test::shown;
using nbd_test::operator+;
using nbd_test::text;
using std::string_literals::operator""s;
using std::string_view_literals::operator""sv;

TEST_CASE("protocol/option: the greeting in hex (P10)")
{
    std::array<std::byte, greeting_bytes> to{};
    encode_greeting(to, handshake_flag::fixed_newstyle | handshake_flag::no_zeroes);
    //                   NBDMAGIC         IHAVEOPT         flags
    CHECK(shown(to) == shown(hex("4e42444d41474943 49484156454f5054 0003")));
}

TEST_CASE("protocol/option: an option's header in hex (P17)")
{
    //                    IHAVEOPT         option   length
    const auto good = hex("49484156454f5054 00000007 0000000a");
    const auto decode = [](const bytes& from) {
        return decode_option_header(std::span<const std::byte, option_header_bytes>{from});
    };
    CHECK(decode(good) == option_header{option::go, 10});
    CHECK(decode(hex("49484156454f5054 ffffffff ffffffff"))
          == option_header{static_cast<option>(0xffffffff), 0xffffffff});
    for (std::size_t bit = 0; bit < 64; ++bit) {
        auto bad = good;
        bad[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
        CAPTURE(bit);
        CHECK_FALSE(decode(bad));
    }
}

TEST_CASE("protocol/option: an option reply's header in hex (P18)")
{
    std::array<std::byte, option_reply_header_bytes> to{};
    encode_option_reply(to, option::list, option_reply::err_policy, 0x01020304);
    //                        magic            option   type     length
    CHECK(shown(to) == shown(hex("0003e889045565a9 00000003 80000002 01020304")));
}

TEST_CASE("protocol/option: the data of INFO and GO (P33)")
{
    //                    name_len n a m e    n    BLOCK_SIZE unknown
    const auto data = hex("00000004 64697363 0002 0003 1234");
    const auto asked = decode_info_request(data);
    REQUIRE(asked);
    CHECK(asked->name == "disc");
    CHECK(asked->types.size() == 4);
    CHECK(asked->wants(info::block_size));
    CHECK_FALSE(asked->wants(info::name));
    CHECK_FALSE(asked->wants(info::export_));
    CHECK(asked->wants(static_cast<info>(0x1234)));

    const auto least = decode_info_request(hex("00000000 0000"));
    REQUIRE(least);
    CHECK(least->name.empty());
    CHECK(least->types.empty());
}

TEST_CASE("protocol/option: INFO and GO are refused unless the lengths add up exactly (P33)")
{
    const auto refused = [](const bytes& data) {
        CAPTURE(shown(data));
        CHECK_FALSE(decode_info_request(data));
    };
    // every prefix and every extension of valid data
    const auto good = hex("00000004 64697363 0002 0003 0001");
    for (std::size_t n = 0; n < good.size(); ++n)
        refused(bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(n)));
    refused(good + hex("00"));
    refused(good + hex("0000"));
    // 0 to 5 bytes: CVE-2022-26496, where "length - 6" went below zero
    for (std::size_t n = 0; n < 6; ++n)
        refused(bytes(n, std::byte{0}));
    // a name longer than the data, with lengths that wrap in an addition
    for (const std::uint32_t n : {1U, 2U, 3U, 0xfffffffaU, 0xfffffffeU, 0xffffffffU, 0x80000000U})
        refused(big(n) + hex("0000"));
    refused(hex("fffffffe 0000 00000000"));
    refused(big(4000U) + bytes(2044, std::byte{'x'}));
    // the name covers the count
    refused(hex("00000006 646973630000"));
    refused(hex("00000005 6469736300 00"));
    // a count that is too large or too small, and half a type
    refused(hex("00000000 0001"));
    refused(hex("00000000 0001 00"));
    refused(hex("00000000 ffff 0000"));
    refused(hex("00000000 0000 0000"));
    refused(hex("00000000 0001 0000 00"));
}

TEST_CASE("protocol/option: the largest number of information types")
{
    const auto data = hex("00000000 ffff") + bytes(2 * std::size_t{0xffff}, std::byte{0});
    const auto asked = decode_info_request(data);
    REQUIRE(asked);
    CHECK(asked->wants(info::export_));
    CHECK_FALSE(asked->wants(info::name));
}

// --- strings (P2) -------------------------------------------------------------------------------

static_assert(valid_string("") && valid_string("disk") && valid_string("\x7f\n\x1b"));
static_assert(valid_string("\xc2\x80") && valid_string("\xdf\xbf"));                  // two bytes
static_assert(valid_string("\xe0\xa0\x80") && valid_string("\xef\xbf\xbf"));          // three
static_assert(valid_string("\xf0\x90\x80\x80") && valid_string("\xf4\x8f\xbf\xbf"));  // four
static_assert(valid_string("\xed\x9f\xbf") && valid_string("\xee\x80\x80"));  // around surrogates
static_assert(!valid_string("\0"sv) && !valid_string("disk\0x"sv));
static_assert(!valid_string("\x80") && !valid_string("a\xbf"));                 // no lead byte
static_assert(!valid_string("\xc0\xaf") && !valid_string("\xc1\xbf"));          // overlong, two
static_assert(!valid_string("\xe0\x80\xaf") && !valid_string("\xe0\x9f\xbf"));  // three
static_assert(!valid_string("\xf0\x80\x80\xaf") && !valid_string("\xf0\x8f\xbf\xbf"));  // four
static_assert(!valid_string("\xc0\x80"));                                       // overlong NUL
static_assert(!valid_string("\xed\xa0\x80") && !valid_string("\xed\xbf\xbf"));  // surrogates
static_assert(!valid_string("\xf4\x90\x80\x80"));                               // past U+10FFFF
static_assert(!valid_string("\xf5\x80\x80\x80") && !valid_string("\xff\xfe"));
static_assert(!valid_string("\xfb\xbf\xbf\xbf\xbf"));

TEST_CASE("protocol/option: a string is at most 4096 bytes, counted in bytes (P2)")
{
    CHECK(valid_string(std::string(4096, 'x')));
    CHECK_FALSE(valid_string(std::string(4097, 'x')));
    std::string wide;
    for (int i = 0; i < 2048; ++i)
        wide += "\xc3\xa4";
    CHECK(valid_string(wide));
    CHECK_FALSE(valid_string(wide + "\xc3\xa4"));
}

TEST_CASE("protocol/option: a truncated character and a wrong continuation byte are refused (P2)")
{
    for (const auto& whole : {"\xc3\xa4"s, "\xe2\x82\xac"s, "\xf0\x9f\x92\xbe"s}) {
        CHECK(valid_string(whole + "x"));
        for (std::size_t n = 1; n < whole.size(); ++n) {
            CHECK_FALSE(valid_string(whole.substr(0, n)));
            CHECK_FALSE(valid_string(whole.substr(0, n) + "x"));
            CHECK_FALSE(valid_string(whole.substr(0, n) + "xyz"));
            CHECK_FALSE(valid_string(whole.substr(0, n) + "\xc3\xa4"));
        }
    }
}

TEST_CASE("protocol/option: the number of valid pairs of bytes is that of Unicode's table (P2)")
{
    int good = 0;
    for (int a = 0; a < 256; ++a) {
        for (int b = 0; b < 256; ++b)
            good += valid_string(std::string{static_cast<char>(a), static_cast<char>(b)}) ? 1 : 0;
    }
    CHECK(good == 127 * 127 + 30 * 64);
}
