// SPDX-License-Identifier: MIT
// The handshake byte by byte, without a socket: what is well-formed. Limits and malformed options are
// in haggler_limits.test.cpp.
#include "catch.hpp"
#include "support/haggling.hpp"

#include <string>

using namespace nbd_test;
using nbd::errc;
using verdict = nbd::handshake::verdict;

namespace {
constexpr std::uint32_t export_name = 1, abort_ = 2, list = 3, info = 6, go = 7;
constexpr std::uint32_t ack = 1, server = 2, info_reply = 3;
constexpr std::uint32_t unsup = 0x80000001, policy = 0x80000002, invalid = 0x80000003,
                        unknown = 0x80000006, shutdown = 0x80000007;

const auto info_export_disk = hex("0000 0000000000100000 0005");
const auto info_export_other = hex("0000 0000000000000200 0003");
}  // namespace

TEST_CASE("handshake/haggler: the greeting comes first and offers two flags (P10, P11, P12)")
{
    haggling h;
    CHECK(shown(h.heard()) == shown(hex("4e42444d41474943 49484156454f5054 0003")));
    CHECK(h.haggler().wants() == 4);
    CHECK_FALSE(h.haggler().between_options());
}

TEST_CASE("handshake/haggler: the client flags that were offered pass, silently (P13)")
{
    for (std::uint32_t flags = 0; flags <= 3; ++flags) {
        haggling h;
        h.heard();
        CHECK(h.say(client_flags(flags)) == verdict::more);
        CHECK(h.heard().empty());
        CHECK(h.haggler().wants() == 16);
        CHECK(h.haggler().between_options());
    }
}

TEST_CASE("handshake/haggler: any other client flag ends the session (P14)")
{
    for (unsigned bit = 2; bit < 32; ++bit) {
        for (const std::uint32_t with : {0U, 3U}) {
            haggling h;
            h.heard();
            CHECK(h.say(client_flags(with | 1U << bit)) == verdict::hang_up);
            CHECK(h.ended() == errc::unknown_client_flags);
            CHECK(h.heard().empty());
        }
    }
}

TEST_CASE("handshake/haggler: EXPORT_NAME is answered without a header, 10 or 134 bytes (P28)")
{
    for (const std::uint32_t flags : {0U, 1U, 2U, 3U}) {
        haggling h;
        h.begun(flags);
        CHECK(h.say(option(export_name, text("disk"))) == verdict::transmit);
        auto expected = hex("0000000000100000 0005");
        if ((flags & 2) == 0)
            expected.resize(134);
        CHECK(shown(h.heard()) == shown(expected));
    }
}

TEST_CASE("handshake/haggler: the empty name is asked for as such (P28)")
{
    haggling h;
    h.begun();
    CHECK(h.say(option(export_name)) == verdict::transmit);
    CHECK(shown(h.heard()) == shown(hex("0000000000100000 0005")));
}

TEST_CASE("handshake/haggler: EXPORT_NAME that cannot be served leaves only closing (P23, P28)")
{
    haggling h;
    h.begun();
    SECTION("no such export")
    {
        h.say(option(export_name, text("nosuch")));
    }
    SECTION("the backend does not open")
    {
        h.refuse_with(std::make_error_code(std::errc::io_error));
        h.say(option(export_name, text("disk")));
    }
    SECTION("NUL in the name")
    {
        h.say(option(export_name, hex("6469736b 00")));
    }
    SECTION("not UTF-8")
    {
        h.say(option(export_name, hex("c0af")));
    }
    SECTION("4097 bytes")
    {
        h.say(option(export_name, bytes(4097, std::byte{'x'})));
    }
    SECTION("more than an option may have")
    {
        h.say(hex("49484156454f5054 00000001 00010001"));
        CHECK(h.longest_step() == 16);
    }
    CHECK(h.over());
    CHECK(h.ended() == errc::export_name_refused);
    CHECK(h.heard().empty());
}

TEST_CASE("handshake/haggler: ABORT gets ACK, whatever its data, and a clean end (P29)")
{
    for (const auto& data : {bytes{}, hex("00"), pattern(1000)}) {
        haggling h;
        h.begun();
        CHECK(h.say(option(abort_, data)) == verdict::hang_up);
        CHECK_FALSE(h.ended());
        CHECK(shown(h.heard()) == shown(option_reply(abort_, ack)));
    }
}

TEST_CASE("handshake/haggler: LIST names every export and then ACKs (P30)")
{
    haggling h;
    h.begun();
    const auto everything = option_reply(list, server,
                                         big(4U)
                                             + text("disk"
                                                    "A disk"))
        + option_reply(list, server, big(5U) + text("other\xc3\x84")) + option_reply(list, ack);
    CHECK(h.answer(list) == shown(everything));
    CHECK(h.answer(list) == shown(everything));
    CHECK(h.opens() == 0);
    CHECK(h.in_step());
}

TEST_CASE("handshake/haggler: LIST of no exports is an ACK alone (P30)")
{
    haggling h{{}, {}};
    h.begun();
    CHECK(h.answer(list) == shown(option_reply(list, ack)));
}

TEST_CASE("handshake/haggler: GO sends INFO_EXPORT, ACK, no zeroes, and transmission starts (P35)")
{
    for (const std::uint32_t flags : {1U, 3U}) {
        haggling h;
        h.begun(flags);
        CHECK(h.say(option(go, info_data("disk"))) == verdict::transmit);
        CHECK(shown(h.heard())
              == shown(option_reply(go, info_reply, info_export_disk) + option_reply(go, ack)));
    }
}

TEST_CASE("handshake/haggler: INFO says the same as GO and options go on (P36)")
{
    const std::vector<std::uint16_t> types{0, 1, 2, 3};
    const auto expected = [](std::uint32_t o) {
        return option_reply(o, info_reply, info_export_other)
            + option_reply(o, info_reply, hex("0001") + text("other"))
            + option_reply(o, info_reply, hex("0002") + text("\xc3\x84"))
            + option_reply(o, info_reply, hex("0003 00000200 00001000 00100000"))
            + option_reply(o, ack);
    };
    haggling h;
    h.begun();
    CHECK(h.answer(info, info_data("other", types)) == shown(expected(info)));
    CHECK(h.in_step());
    CHECK(h.answer(go, info_data("other", types)) == shown(expected(go)));
    CHECK(h.over());
    CHECK(h.opens() == 2);
}

TEST_CASE("handshake/haggler: only what was asked for is sent, once, beside INFO_EXPORT (P34, P45)")
{
    haggling h;
    h.begun();
    CHECK(h.answer(info, info_data("disk", {3}))
          == shown(option_reply(info, info_reply, info_export_disk)
                   + option_reply(info, info_reply, hex("0003 00000001 00001000 02000000"))
                   + option_reply(info, ack)));
    CHECK(h.answer(info, info_data("disk", {2, 2, 2}))
          == shown(option_reply(info, info_reply, info_export_disk)
                   + option_reply(info, info_reply, hex("0002") + text("A disk"))
                   + option_reply(info, ack)));
    CHECK(h.answer(info, info_data("disk", {1}))
          == shown(option_reply(info, info_reply, info_export_disk)
                   + option_reply(info, info_reply, hex("0001") + text("disk"))
                   + option_reply(info, ack)));
}

TEST_CASE("handshake/haggler: unknown information types are ignored (P34)")
{
    haggling h;
    h.begun();
    CHECK(h.answer(info, info_data("disk", {4, 0x7fff, 0xffff}))
          == shown(option_reply(info, info_reply, info_export_disk) + option_reply(info, ack)));
}

TEST_CASE("handshake/haggler: the canonical name goes back for the empty one (P45)")
{
    haggling h;
    h.begun();
    CHECK(h.answer(info, info_data("", {1}))
          == shown(option_reply(info, info_reply, info_export_disk)
                   + option_reply(info, info_reply, hex("0001") + text("disk"))
                   + option_reply(info, ack)));
}

TEST_CASE("handshake/haggler: an unknown export is ERR_UNKNOWN without REP_INFO (P37)")
{
    for (const auto o : {info, go}) {
        haggling h;
        h.begun();
        CHECK(h.answer_type(option(o, info_data("nosuch", {3}))) == unknown);
        CHECK(h.in_step());
        CHECK(h.say(option(go, info_data("disk"))) == verdict::transmit);
    }
}

TEST_CASE("handshake/haggler: the text of an error is short, escaped UTF-8 (P22, CVE-2020-10761)")
{
    const auto text_of = [](const std::string& name) {
        haggling h;
        h.begun();
        h.say(option(go, info_data(name)));
        const auto all = h.heard();
        REQUIRE(all.size() >= 20);
        return std::string{as_text(all).substr(20)};
    };
    CHECK(text_of("nosuch") == "no export \"nosuch\"");
    CHECK(text_of("%s\x1b[1m\n") == "no export \"%s\\x1b[1m\\x0a\"");
    CHECK(text_of("\xc3\xa4") == "no export \"\\xc3\\xa4\"");
    CHECK(text_of(std::string(4096, 'x')) == "no export \"" + std::string(80, 'x') + "...\"");
    CHECK(text_of(std::string(4096, '\n')).size() < 4096);
}

TEST_CASE("handshake/haggler: why an export does not open decides the error (P27, B03)")
{
    haggling h;
    h.begun();
    h.refuse_with(std::make_error_code(std::errc::permission_denied));
    CHECK(h.answer_type(option(go, info_data("disk"))) == policy);
    h.refuse_with(std::make_error_code(std::errc::operation_not_permitted));
    CHECK(h.answer_type(option(info, info_data("disk"))) == policy);
    h.refuse_with(std::make_error_code(std::errc::io_error));
    CHECK(h.answer_type(option(go, info_data("disk"))) == unknown);
    h.refuse_with({});
    CHECK(h.say(option(go, info_data("disk"))) == verdict::transmit);
}

TEST_CASE(
    "handshake/haggler: every other option is ERR_UNSUP, with its number and in step (P19, P20)")
{
    haggling h{{.options_per_handshake = 10'000, .handshake_bytes = std::size_t{64} << 20}};
    h.begun();
    for (const std::uint32_t o :
         {0U, 4U, 9U, 10U, 12U, 99U, 0x7fffffffU, 0x80000003U, 0xffffffffU}) {
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

TEST_CASE("handshake/haggler: STARTTLS, STRUCTURED_REPLY, EXTENDED_HEADERS are not there yet (P71)")
{
    haggling h;
    h.begun();
    for (const std::uint32_t o : {5U, 8U, 11U}) {
        CHECK(h.answer_type(option(o)) == unsup);
        CHECK(h.answer_type(option(o, hex("deadbeef"))) == invalid);
        CHECK(h.in_step());
    }
}

TEST_CASE("handshake/haggler: without C_FIXED_NEWSTYLE only EXPORT_NAME and ABORT work (P16)")
{
    for (const std::uint32_t flags : {0U, 2U}) {
        haggling h;
        h.begun(flags);
        CHECK(h.answer_type(option(list)) == invalid);
        CHECK(h.answer_type(option(go, info_data("disk"))) == invalid);
        CHECK(h.answer_type(option(info, info_data("disk"))) == invalid);
        CHECK(h.answer_type(option(99)) == invalid);
        CHECK(h.opens() == 0);
        SECTION("EXPORT_NAME")
        {
            CHECK(h.say(option(export_name, text("disk"))) == verdict::transmit);
        }
        SECTION("ABORT")
        {
            CHECK(h.answer(abort_) == shown(option_reply(abort_, ack)));
            CHECK_FALSE(h.ended());
        }
    }
}

TEST_CASE("handshake/haggler: shutting down, every option but ABORT is ERR_SHUTDOWN (P24)")
{
    haggling h;
    h.begun();
    h.haggler().shut_down();
    for (const std::uint32_t o : {3U, 5U, 6U, 7U, 8U, 9U, 10U, 11U, 99U})
        CHECK(h.answer_type(option(o, info_data("disk"))) == shutdown);
    CHECK(h.opens() == 0);
    SECTION("ABORT")
    {
        CHECK(h.answer(abort_) == shown(option_reply(abort_, ack)));
        CHECK_FALSE(h.ended());
    }
    SECTION("EXPORT_NAME has no error to give")
    {
        CHECK(h.say(option(export_name, text("disk"))) == verdict::hang_up);
        CHECK(h.ended() == errc::server_stopped);
        CHECK(h.heard().empty());
    }
}

TEST_CASE("handshake/haggler: the option is told to the observer with its length")
{
    haggling h;
    h.begun();
    h.say(option(list));
    CHECK(h.haggler().option() == nbd::protocol::option_header{nbd::protocol::option::list, 0});
    h.say(option(99, pattern(7)));
    CHECK(h.haggler().option()
          == nbd::protocol::option_header{static_cast<nbd::protocol::option>(99), 7});
}
