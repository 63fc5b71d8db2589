// SPDX-License-Identifier: MIT
// Limits of the handshake: malformed options, too many of them, too much data.
#include "catch.hpp"
#include "support/negotiation.hpp"

#include <string>
#include <system_error>
#include <tuple>

using namespace nbd_test;
using nbd::errc;
using action = nbd::handshake::action;

namespace {
constexpr std::uint32_t list = 3, info = 6, go = 7;
constexpr std::uint32_t unsup = 0x80000001, invalid = 0x80000003, unknown = 0x80000006,
                        too_big = 0x80000009;

bytes header(std::uint32_t o, std::uint32_t length)
{
    return hex("49484156454f5054") + big(o) + big(length);
}
}  // namespace

TEST_CASE("handshake/negotiator: something that is not an option ends the session (P7, O33)")
{
    for (const auto& wrong :
         {request(0, 1, 0, 512), bytes(16, std::byte{0}), text("GET / HTTP/1.0\r\n\r\n"),
          hex("0003e889045565a9 00000003 00000000"), hex("49484156454f5055 00000003 00000000")}) {
        negotiation h;
        h.begun();
        CHECK(h.say(wrong) == action::close);
        CHECK(h.ended() == errc::bad_option_magic);
        CHECK(h.heard().empty());
    }
}

TEST_CASE("handshake/negotiator: LIST with data is ERR_INVALID once, and the stream stays in step "
          "(P30, O23)")
{
    negotiation h;
    h.begun();
    CHECK(h.answer_type(option(list, hex("00"))) == invalid);
    CHECK(h.answer_type(option(list, pattern(4096))) == invalid);
    CHECK(h.in_step());
}

TEST_CASE("handshake/negotiator: INFO and GO whose lengths do not add up are ERR_INVALID (P33)")
{
    for (const auto o : {info, go}) {
        negotiation h{{.options_per_handshake = 1000}};
        h.begun();
        for (const auto& data :
             {bytes{}, hex("00"), hex("0000"), hex("000000"), hex("00000000"), hex("00000000 00"),
              hex("00000001 0000"), hex("ffffffff 0000"), hex("fffffffe 0000 00000000"),
              hex("00000000 0001"), hex("00000000 0000 00"), hex("00000000 ffff"),
              big(4000U) + bytes(2044, std::byte{'x'}), info_data("disk") + hex("00"),
              info_data("disk", {3}) + hex("0000")}) {
            CAPTURE(o, shown(data));
            CHECK(h.answer_type(option(o, data)) == invalid);
            CHECK(h.in_step());
        }
        CHECK(h.opens() == 0);
    }
}

TEST_CASE("handshake/negotiator: an invalid string as a name is ERR_INVALID and opens nothing (P2, "
          "O16, O17)")
{
    using std::string_literals::operator""s;
    for (const auto o : {info, go}) {
        negotiation h;
        h.begun();
        for (const auto& name : {"disk\0"s, "disk\0x"s, "\0"s, "\xff\xfe"s, "\xc0\xaf"s,
                                 "\xed\xa0\x80"s, "disk\xc3"s, std::string(4097, 'x')}) {
            CHECK(h.answer_type(option(o, info_data(name))) == invalid);
            CHECK(h.in_step());
        }
        CHECK(h.opens() == 0);
        CHECK(h.answer_type(option(o, info_data(std::string(4096, 'x')))) == unknown);
        CHECK(h.opens() == 1);
    }
}

TEST_CASE(
    "handshake/negotiator: an option of the longest length is accepted, a longer one refused (P20)")
{
    const nbd::settings limits{.option_bytes = 1000};
    SECTION("known options: ERR_TOO_BIG")
    {
        for (const std::uint32_t o : {3U, 6U, 7U, 8U, 9U, 10U, 11U}) {
            negotiation h{limits};
            h.begun();
            CHECK(h.answer_type(option(o, bytes(1001, std::byte{0}))) == too_big);
            CHECK(h.in_step());
            CHECK(h.longest_step() <= 1001);
        }
    }
    SECTION("unknown options: ERR_UNSUP, as at any length")
    {
        negotiation h{limits};
        h.begun();
        CHECK(h.answer_type(option(99, bytes(1000, std::byte{0}))) == unsup);
        CHECK(h.answer_type(option(99, bytes(1001, std::byte{0}))) == unsup);
        CHECK(h.in_step());
    }
    SECTION("ABORT: its data are ignored (P29)")
    {
        negotiation h{limits};
        h.begun();
        CHECK(h.say(option(2, bytes(1001, std::byte{0}))) == action::close);
        CHECK(shown(h.heard()) == shown(hex("0003e889045565a9 00000002 00000001 00000000")));
    }
    SECTION("an option of exactly the limit is parsed")
    {
        negotiation h{limits};
        h.begun();
        CHECK(h.answer_type(option(go, bytes(1000, std::byte{0}))) == invalid);
        CHECK(h.in_step());
    }
}

TEST_CASE(
    "handshake/negotiator: data above the limit are consumed in steps of bounded memory (O05)")
{
    negotiation h;
    h.begun();
    const std::size_t n = 500'001;
    h.heard();
    h.say(header(go, n));
    CHECK(h.heard().empty());
    CHECK(h.negotiator().bytes_needed() <= 65'536);
    // Between two steps there is no reply, and no other option is expected.
    h.say(bytes(n - 1, std::byte{0x49}));
    CHECK(h.heard().empty());
    CHECK_FALSE(h.negotiator().between_options());
    CHECK(h.answer_type(bytes(1, std::byte{0x49})) == too_big);
    CHECK(h.longest_step() <= 65'536);
    CHECK(h.in_step());
}

TEST_CASE("handshake/negotiator: a length of 4 GiB is refused at its header (CVE-2017-15119)")
{
    for (const std::uint32_t o : {1U, 3U, 7U, 99U}) {
        negotiation h;
        h.begun();
        CHECK(h.say(header(o, 0xffffffff)) == action::close);
        CHECK(h.ended() == errc::handshake_too_long);
        CHECK(h.heard().empty());
    }
}

TEST_CASE("handshake/negotiator: the limit of all options together is exact to the byte")
{
    negotiation h{{.options_per_handshake = 100, .handshake_bytes = 100}};
    h.begun();
    CHECK(h.answer_type(option(99, pattern(60))) == unsup);
    CHECK(h.answer_type(option(99, pattern(40))) == unsup);
    CHECK(h.answer_type(option(99)) == unsup);
    CHECK(h.say(header(99, 1)) == action::close);
    CHECK(h.ended() == errc::handshake_too_long);
}

TEST_CASE("handshake/negotiator: oversized options count against the limit of all options")
{
    negotiation h{{.option_bytes = 10, .handshake_bytes = 100}};
    h.begun();
    CHECK(h.answer_type(option(99, pattern(100))) == unsup);
    CHECK(h.say(header(99, 1)) == action::close);
    CHECK(h.ended() == errc::handshake_too_long);
}

TEST_CASE("handshake/negotiator: one option more than allowed ends the session (N-17)")
{
    negotiation h{{.options_per_handshake = 5}};
    h.begun();
    for (int i = 0; i < 5; ++i)
        CHECK(h.say(option(info, info_data("disk"))) == action::receive);
    CHECK(h.opens() == 5);
    h.heard();
    CHECK(h.say(header(info, 10)) == action::close);
    CHECK(h.ended() == errc::too_many_options);
    CHECK(h.heard().empty());
}

TEST_CASE("handshake/negotiator: malformed options and ABORT count as options")
{
    negotiation h{{.options_per_handshake = 3}};
    h.begun();
    for (int i = 0; i < 3; ++i)
        CHECK(h.answer_type(option(go)) == invalid);
    CHECK(h.say(option(2)) == action::close);
    CHECK(h.ended() == errc::too_many_options);
}

TEST_CASE("handshake/negotiator: the calls of the program are limited, four more for each export")
{
    const auto calls_after_lists = [](int lists) {
        negotiation h{{.options_per_handshake = 3}};  // two exports
        h.begun();
        for (int i = 0; i < lists; ++i)
            h.say(option(list));
        int n = 0;
        while (h.negotiator().may_call())
            ++n;
        return n;
    };
    CHECK(calls_after_lists(0) == 3);
    CHECK(calls_after_lists(1) == 3 + 2 * 4);
    CHECK(calls_after_lists(3) == 3 + 2 * 4);
}

TEST_CASE("handshake/negotiator: a LIST that fails is the first one")
{
    negotiation h{{.options_per_handshake = 3}};
    h.begun();
    for (int i = 0; i < 3; ++i) {
        CHECK(h.negotiator().process(header(list, 0)) == action::list_exports);
        CHECK(h.negotiator().list_export("disk", {}));
        std::ignore = h.negotiator().export_refused(std::make_error_code(std::errc::io_error));
    }
    int n = 0;
    while (h.say(option(99)) == action::receive)
        ++n;
    CHECK(n == 3);
}

TEST_CASE("handshake/negotiator: only the first LIST raises the limit of options, for each export")
{
    const auto options_after_lists = [](int lists) {
        negotiation h{{.options_per_handshake = 4}};  // two exports
        h.begun();
        for (int i = 0; i < lists; ++i)
            h.say(option(list));
        int n = 0;
        while (h.say(option(99)) == action::receive)
            ++n;
        CHECK(h.ended() == errc::too_many_options);
        return n;
    };
    CHECK(options_after_lists(0) == 4);
    CHECK(options_after_lists(1) == 3 + 2 * 4);
    CHECK(options_after_lists(2) == 2 + 2 * 4);
    CHECK(options_after_lists(10) == 12 - 10);
}

TEST_CASE("handshake/negotiator: after the first LIST a client can query every export")
{
    std::vector<negotiation::entry> many;
    for (int i = 0; i < 500; ++i)
        many.push_back({"disk" + std::to_string(i), "", {.size = 1, .flags = 1, .blocks = {}}});
    negotiation h{{}, many};
    h.begun();
    h.say(option(list));
    for (const auto& e : many)
        REQUIRE(h.say(option(info, info_data(e.name))) == action::receive);
    CHECK(h.say(option(go, info_data("disk499"))) == action::transmit);
}

TEST_CASE(
    "handshake/negotiator: a handshake cut at any byte has the replies to its complete options")
{
    const auto whole = client_flags() + option(list) + option(99, pattern(9))
        + option(list, hex("00")) + option(info, info_data("other", {1, 2, 3}))
        + option(go, info_data("disk"));
    negotiation at_once;
    CHECK(at_once.say(whole) == action::transmit);
    const auto expected = shown(at_once.heard());

    negotiation by_byte;
    bytes heard;
    for (std::size_t i = 0; i < whole.size(); ++i) {
        CHECK_FALSE(by_byte.over());
        by_byte.say({whole[i]});
        heard = heard + by_byte.heard();
    }
    CHECK(by_byte.over());
    CHECK(shown(heard) == expected);
}

TEST_CASE("handshake/negotiator: malformed options are handled in bounded steps")
{
    // A small fuzz test with a fixed seed: no failed assertion, no sanitizer report, and bounded
    // steps.
    std::uint32_t state = 12345;
    const auto next = [&state] {
        state = state * 1664525 + 1013904223;
        return state >> 8;
    };
    for (int round = 0; round < 2000; ++round) {
        negotiation h;
        h.begun();
        for (int i = 0; i < 8 && !h.over(); ++i) {
            auto data = info_data("disk", {1, 2});
            data.resize(data.size() + next() % 5 - 2);
            data[next() % data.size()] = static_cast<std::byte>(next());
            h.say(option(next() % 13, data));
        }
        CHECK(h.longest_step() <= 65'536);
    }
}
