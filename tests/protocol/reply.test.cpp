// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/protocol/reply.hpp>

#include <array>

using namespace nbd::protocol;
using nbd_test::hex;
using nbd_test::shown;
using nbd_test::operator+;

TEST_CASE("protocol/reply: a simple reply in hex, both ways (P48)")
{
    //                         magic    error    cookie
    const auto golden = hex("67446698 0000001c 0123456789abcdef");
    const simple_reply meant{.error = error_value::enospc, .cookie = 0x0123456789abcdef};
    std::array<std::byte, simple_reply_bytes> to{};
    encode_reply(to, meant);
    CHECK(shown(to) == shown(golden));
    CHECK(decode_simple_reply(to) == meant);
}

TEST_CASE("protocol/reply: success is 0, and any cookie is returned unchanged (P48, P52)")
{
    for (const std::uint64_t cookie : {0ULL, 1ULL, ~0ULL, 0x8000000000000000ULL}) {
        std::array<std::byte, simple_reply_bytes> to{};
        encode_reply(to, {.error = error_value::none, .cookie = cookie});
        CHECK(shown(to) == shown(nbd_test::simple_reply(0, cookie)));
        CHECK(decode_simple_reply(to) == simple_reply{error_value::none, cookie});
    }
}

TEST_CASE("protocol/reply: another magic is refused")
{
    for (const auto* const magic : {"668e33ef", "6e8a278c", "25609513", "67446699"}) {
        const auto bad = hex(magic) + hex("00000000 0000000000000001");
        CHECK_FALSE(decode_simple_reply(std::span<const std::byte, simple_reply_bytes>{bad}));
    }
}
