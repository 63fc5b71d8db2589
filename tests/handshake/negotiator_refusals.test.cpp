// SPDX-License-Identifier: MIT
// The handshake byte by byte, without a socket: well-formed options that are refused.
#include "catch.hpp"
#include "support/negotiation.hpp"

#include <string>

using namespace nbd_test;
using nbd::errc;
using action = nbd::handshake::action;

namespace {
constexpr std::uint32_t export_name = 1, abort_ = 2, list = 3, info = 6, go = 7;
constexpr std::uint32_t ack = 1;
constexpr std::uint32_t unsup = 0x80000001, policy = 0x80000002, invalid = 0x80000003,
                        unknown = 0x80000006, shutting_down = 0x80000007;
}  // namespace

TEST_CASE("handshake/negotiator: an unknown export is ERR_UNKNOWN without REP_INFO (P37)")
{
    for (const auto o : {info, go}) {
        negotiation h;
        h.begun();
        CHECK(h.answer_type(option(o, info_data("nosuch", {3}))) == unknown);
        CHECK(h.in_step());
        CHECK(h.say(option(go, info_data("disk"))) == action::transmit);
    }
}

TEST_CASE(
    "handshake/negotiator: the text of an error is short, escaped UTF-8 (P22, CVE-2020-10761)")
{
    const auto text_of = [](const std::string& name) {
        negotiation h;
        h.begun();
        h.say(option(go, info_data(name)));
        const auto all = h.heard();
        REQUIRE(all.size() >= 20);
        return as_text(all).substr(20);
    };
    CHECK(text_of("nosuch") == "no export \"nosuch\"");
    CHECK(text_of("%s\x1b[1m\n") == "no export \"%s\\x1b[1m\\x0a\"");
    CHECK(text_of("\xc3\xa4") == "no export \"\\xc3\\xa4\"");
    CHECK(text_of(std::string(4096, 'x')) == "no export \"" + std::string(80, 'x') + "...\"");
    CHECK(text_of(std::string(4096, '\n')).size() < 4096);
}

TEST_CASE("handshake/negotiator: the error of a failed open depends on its cause (P27, B03)")
{
    negotiation h;
    h.begun();
    h.refuse_with(std::make_error_code(std::errc::permission_denied));
    CHECK(h.answer_type(option(go, info_data("disk"))) == policy);
    h.refuse_with(std::make_error_code(std::errc::operation_not_permitted));
    CHECK(h.answer_type(option(info, info_data("disk"))) == policy);
    h.refuse_with(std::make_error_code(std::errc::io_error));
    CHECK(h.answer_type(option(go, info_data("disk"))) == unknown);
    h.refuse_with({});
    CHECK(h.say(option(go, info_data("disk"))) == action::transmit);
}

TEST_CASE("handshake/negotiator: every other option is ERR_UNSUP with its number, and the stream "
          "stays in step (P19, P20)")
{
    negotiation h{{.options_per_handshake = 10'000, .handshake_bytes = std::size_t{64} << 20}};
    h.begun();
    for (const std::uint32_t o : {0U, 4U, 12U, 99U, 0x7fffffffU, 0x80000003U, 0xffffffffU}) {
        for (const std::size_t n : {0U, 1U, 16U, 4096U, 65536U, 65537U, 200'000U}) {
            h.heard();
            h.say(option(o, bytes(n, std::byte{0x49})));
            const auto all = h.heard();
            REQUIRE(all.size() >= 20);
            CHECK(shown(std::span{all}.first(16))
                  == shown(hex("0003e889045565a9") + big(o) + big(unsup)));
            CHECK(h.in_step());
        }
    }
}

TEST_CASE(
    "handshake/negotiator: STARTTLS is ERR_UNSUP; options without data refuse data (P32, P38, P71)")
{
    negotiation h;
    h.begun();
    CHECK(h.answer_type(option(5U)) == unsup);
    for (const std::uint32_t o : {5U, 8U, 11U}) {
        CHECK(h.answer_type(option(o, hex("deadbeef"))) == invalid);
        CHECK(h.in_step());
    }
}

TEST_CASE("handshake/negotiator: without C_FIXED_NEWSTYLE only EXPORT_NAME and ABORT work (P16)")
{
    for (const std::uint32_t flags : {0U, 2U}) {
        negotiation h;
        h.begun(flags);
        CHECK(h.answer_type(option(list)) == invalid);
        CHECK(h.answer_type(option(go, info_data("disk"))) == invalid);
        CHECK(h.answer_type(option(info, info_data("disk"))) == invalid);
        CHECK(h.answer_type(option(99)) == invalid);
        CHECK(h.opens() == 0);
        SECTION("EXPORT_NAME")
        {
            CHECK(h.say(option(export_name, text("disk"))) == action::transmit);
        }
        SECTION("ABORT")
        {
            CHECK(h.answer(abort_) == shown(option_reply(abort_, ack)));
            CHECK_FALSE(h.ended());
        }
    }
}

TEST_CASE("handshake/negotiator: shutting down, every option but ABORT is ERR_SHUTDOWN (P24)")
{
    negotiation h;
    h.begun();
    h.negotiator().shut_down();
    for (const std::uint32_t o : {3U, 5U, 6U, 7U, 8U, 9U, 10U, 11U, 99U})
        CHECK(h.answer_type(option(o, info_data("disk"))) == shutting_down);
    SECTION("also with too much data")
    {
        CHECK(h.answer_type(option(99, bytes(70'000))) == shutting_down);
        CHECK(h.answer_type(option(3, bytes(70'000))) == shutting_down);
    }
    CHECK(h.opens() == 0);
    SECTION("ABORT")
    {
        CHECK(h.answer(abort_) == shown(option_reply(abort_, ack)));
        CHECK_FALSE(h.ended());
    }
    SECTION("EXPORT_NAME has no error reply")
    {
        CHECK(h.say(option(export_name, text("disk"))) == action::close);
        CHECK(h.ended() == errc::server_stopped);
        CHECK(h.heard().empty());
    }
}

TEST_CASE("handshake/negotiator: the last option and its length are known")
{
    negotiation h;
    h.begun();
    h.say(option(list));
    CHECK(h.negotiator().option() == nbd::protocol::option_header{nbd::protocol::option::list, 0});
    h.say(option(99, pattern(7)));
    CHECK(h.negotiator().option()
          == nbd::protocol::option_header{static_cast<nbd::protocol::option>(99), 7});
}
