// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/session/requests/unflagged_writes.hpp>

#include <array>

using namespace nbd::protocol;
using nbd::session::unflagged_writes;
using judgement = unflagged_writes::judgement;

namespace {

constexpr request unflagged{.command = command::write, .length = 512, .extended = true};
constexpr std::array<std::byte, 4> guest_data{};
constexpr std::array magic{std::byte{0x21}, std::byte{0xe4}, std::byte{0x1c}, std::byte{0x71}};

}  // namespace

TEST_CASE("session/requests/unflagged_writes: only extended WRITEs without PAYLOAD_LEN are "
          "affected (P55)")
{
    CHECK(unflagged_writes::concern(unflagged, 4096));
    CHECK_FALSE(unflagged_writes::concern(unflagged, 511));
    auto r = unflagged;
    r.flags = command_flag::payload_len;
    CHECK_FALSE(unflagged_writes::concern(r, 4096));
    r = unflagged;
    r.extended = false;
    CHECK_FALSE(unflagged_writes::concern(r, 4096));
    r = unflagged;
    r.command = command::write_zeroes;
    CHECK_FALSE(unflagged_writes::concern(r, 4096));
    r = unflagged;
    r.length = 0;
    CHECK_FALSE(unflagged_writes::concern(r, 4096));
}

TEST_CASE("session/requests/unflagged_writes: the bytes behind the first WRITE decide, once")
{
    unflagged_writes u;
    CHECK(u.judge(unflagged, {}) == judgement::linger);
    SECTION("nothing comes")
    {
        u.lingered(false);
        CHECK(u.judge(unflagged, {}) == judgement::no_payload);
        CHECK(u.judge(unflagged, guest_data) == judgement::no_payload);
    }
    SECTION("data come, byte by byte")
    {
        u.lingered(true);
        CHECK(u.judge(unflagged, {}) == judgement::receive);
        CHECK(u.judge(unflagged, std::span{guest_data}.first(3)) == judgement::receive);
        CHECK(u.judge(unflagged, guest_data) == judgement::payload);
        CHECK(u.judge(unflagged, {}) == judgement::payload);
        CHECK(u.judge(unflagged, magic) == judgement::payload);
    }
    SECTION("a payload that is shorter than a magic")
    {
        auto r = unflagged;
        r.length = 2;
        CHECK(u.judge(r, std::span{guest_data}.first(2)) == judgement::payload);
    }
    SECTION("the next request comes")
    {
        CHECK(u.judge(unflagged, magic) == judgement::no_payload);
        CHECK(u.judge(unflagged, guest_data) == judgement::no_payload);
    }
}
