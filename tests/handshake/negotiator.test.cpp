// SPDX-License-Identifier: MIT
// The handshake byte by byte, without a socket: successful replies. Refusals are in
// negotiator_refusals.test.cpp, limits and malformed options are in negotiator_limits.test.cpp.
#include "catch.hpp"
#include "support/negotiation.hpp"

#include <string>

using namespace nbd_test;
using nbd::errc;
using action = nbd::handshake::action;

namespace {
constexpr std::uint32_t export_name = 1, abort_ = 2, list = 3, info = 6, go = 7;
constexpr std::uint32_t ack = 1, server = 2, info_reply = 3;

const auto info_export_disk = hex("0000 0000000000100000 0005");
const auto info_export_other = hex("0000 0000000000000200 0003");
}  // namespace

TEST_CASE("handshake/negotiator: the greeting comes first and offers two flags (P10, P11, P12)")
{
    negotiation h;
    CHECK(shown(h.heard()) == shown(hex("4e42444d41474943 49484156454f5054 0003")));
    CHECK(h.negotiator().bytes_needed() == 4);
    CHECK_FALSE(h.negotiator().between_options());
}

TEST_CASE("handshake/negotiator: client flags that were offered are accepted without a reply (P13)")
{
    for (std::uint32_t flags = 0; flags <= 3; ++flags) {
        negotiation h;
        h.heard();
        CHECK(h.say(client_flags(flags)) == action::receive);
        CHECK(h.heard().empty());
        CHECK(h.negotiator().bytes_needed() == 16);
        CHECK(h.negotiator().between_options());
    }
}

TEST_CASE("handshake/negotiator: any other client flag ends the session (P14)")
{
    for (unsigned bit = 2; bit < 32; ++bit) {
        for (const std::uint32_t with : {0U, 3U}) {
            negotiation h;
            h.heard();
            CHECK(h.say(client_flags(with | 1U << bit)) == action::close);
            CHECK(h.ended() == errc::unknown_client_flags);
            CHECK(h.heard().empty());
        }
    }
}

TEST_CASE("handshake/negotiator: EXPORT_NAME is answered without a header, 10 or 134 bytes (P28)")
{
    for (const std::uint32_t flags : {0U, 1U, 2U, 3U}) {
        negotiation h;
        h.begun(flags);
        CHECK(h.say(option(export_name, text("disk"))) == action::transmit);
        auto expected = hex("0000000000100000 0005");
        if ((flags & 2) == 0)
            expected.resize(134);
        CHECK(shown(h.heard()) == shown(expected));
    }
}

TEST_CASE("handshake/negotiator: EXPORT_NAME with an empty name opens the default export (P28)")
{
    negotiation h;
    h.begun();
    CHECK(h.say(option(export_name)) == action::transmit);
    CHECK(shown(h.heard()) == shown(hex("0000000000100000 0005")));
}

TEST_CASE("handshake/negotiator: EXPORT_NAME that cannot be served ends the session (P23, P28)")
{
    negotiation h;
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

TEST_CASE("handshake/negotiator: ABORT with any data is acknowledged and is a clean end (P29)")
{
    for (const auto& data : {bytes{}, hex("00"), pattern(1000)}) {
        negotiation h;
        h.begun();
        CHECK(h.say(option(abort_, data)) == action::close);
        CHECK_FALSE(h.ended());
        CHECK(shown(h.heard()) == shown(option_reply(abort_, ack)));
    }
}

TEST_CASE("handshake/negotiator: LIST returns every export, then ACK (P30)")
{
    negotiation h;
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

TEST_CASE("handshake/negotiator: LIST of no exports is only an ACK (P30)")
{
    negotiation h{{}, {}};
    h.begun();
    CHECK(h.answer(list) == shown(option_reply(list, ack)));
}

TEST_CASE(
    "handshake/negotiator: GO sends INFO_EXPORT and ACK, no zeroes, and starts transmission (P35)")
{
    for (const std::uint32_t flags : {1U, 3U}) {
        negotiation h;
        h.begun(flags);
        CHECK(h.say(option(go, info_data("disk"))) == action::transmit);
        CHECK(shown(h.heard())
              == shown(option_reply(go, info_reply, info_export_disk) + option_reply(go, ack)));
    }
}

TEST_CASE("handshake/negotiator: INFO is answered as GO is, and options follow (P36)")
{
    const std::vector<std::uint16_t> types{0, 1, 2, 3};
    const auto expected = [](std::uint32_t o) {
        return option_reply(o, info_reply, info_export_other)
            + option_reply(o, info_reply, hex("0001") + text("other"))
            + option_reply(o, info_reply, hex("0002") + text("\xc3\x84"))
            + option_reply(o, info_reply, hex("0003 00000200 00001000 00100000"))
            + option_reply(o, ack);
    };
    negotiation h;
    h.begun();
    CHECK(h.answer(info, info_data("other", types)) == shown(expected(info)));
    CHECK(h.in_step());
    CHECK(h.answer(go, info_data("other", types)) == shown(expected(go)));
    CHECK(h.over());
    CHECK(h.opens() == 2);
}

TEST_CASE(
    "handshake/negotiator: besides INFO_EXPORT only requested information is sent, once (P34, P45)")
{
    negotiation h;
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

TEST_CASE("handshake/negotiator: unknown information types are ignored (P34)")
{
    negotiation h;
    h.begun();
    CHECK(h.answer(info, info_data("disk", {4, 0x7fff, 0xffff}))
          == shown(option_reply(info, info_reply, info_export_disk) + option_reply(info, ack)));
}

TEST_CASE("handshake/negotiator: INFO_NAME of the empty name is the canonical name (P45)")
{
    negotiation h;
    h.begun();
    CHECK(h.answer(info, info_data("", {1}))
          == shown(option_reply(info, info_reply, info_export_disk)
                   + option_reply(info, info_reply, hex("0001") + text("disk"))
                   + option_reply(info, ack)));
}
