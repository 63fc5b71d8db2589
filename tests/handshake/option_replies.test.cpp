// SPDX-License-Identifier: MIT
// The server's replies to options, in hex (P26, P28, P45).
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/handshake/option_replies.hpp>

using namespace nbd::handshake;
using nbd::protocol::export_terms;
using nbd_test::hex;
using nbd_test::shown;
namespace protocol = nbd::protocol;

namespace {
constexpr export_terms terms{
    .size = 0x0102030405060708, .flags = 0x0a0b, .blocks = {512, 4096, 0x02000000}};
}

TEST_CASE("handshake/option_replies: INFO_EXPORT is 12 bytes (P45)")
{
    reply_bytes to;
    append_info_export(to, protocol::option::go, terms);
    CHECK(shown(to)
          == shown(hex("0003e889045565a9 00000007 00000003 0000000c"
                       //type size             flags
                       "0000 0102030405060708 0a0b")));
}

TEST_CASE("handshake/option_replies: INFO_BLOCK_SIZE is 14 bytes (P45)")
{
    reply_bytes to;
    append_info_block_size(to, protocol::option::info, terms.blocks);
    CHECK(shown(to)
          == shown(hex("0003e889045565a9 00000006 00000003 0000000e"
                       //type minimum  preferred maximum payload
                       "0003 00000200 00001000 02000000")));
}

TEST_CASE("handshake/option_replies: INFO_NAME and INFO_DESCRIPTION, also empty (P45)")
{
    reply_bytes to;
    append_info_text(to, protocol::option::go, protocol::info::name, "abc");
    append_info_text(to, protocol::option::go, protocol::info::description, "");
    CHECK(shown(to)
          == shown(hex("0003e889045565a9 00000007 00000003 00000005 0001 616263"
                       "0003e889045565a9 00000007 00000003 00000002 0002")));
}

TEST_CASE("handshake/option_replies: REP_SERVER: length, name, the rest is the description (P26)")
{
    reply_bytes to;
    append_server(to, "ab", "xyz");
    append_server(to, "", "");
    CHECK(shown(to)
          == shown(hex("0003e889045565a9 00000003 00000002 00000009 00000002 6162 78797a"
                       "0003e889045565a9 00000003 00000002 00000004 00000000")));
}

TEST_CASE("handshake/option_replies: the answer to EXPORT_NAME is 10 or 134 bytes (P28, N-26)")
{
    reply_bytes brief;
    append_export_name(brief, terms, true);
    CHECK(shown(brief) == shown(hex("0102030405060708 0a0b")));

    reply_bytes padded;
    append_export_name(padded, terms, false);
    CHECK(padded.size() == 8 + 2 + 124);
    CHECK(shown(padded)
          == shown(hex("0102030405060708 0a0b" + std::string(2 * std::size_t{124}, '0'))));
}

TEST_CASE("handshake/option_replies: a text follows its header, and earlier bytes stay")
{
    reply_bytes to = hex("ff");
    append_reply(to, protocol::option::abort, protocol::option_reply::ack, std::string_view{});
    append_reply(to, protocol::option::list, protocol::option_reply::err_unknown, "no");
    CHECK(shown(to)
          == shown(hex("ff 0003e889045565a9 00000002 00000001 00000000"
                       "0003e889045565a9 00000003 80000006 00000002 6e6f")));
}
