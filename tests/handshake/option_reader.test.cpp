// SPDX-License-Identifier: MIT
// Decodes the bytes of a handshake into client flags and options. Limits:
// negotiator_limits.test.cpp.
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/handshake/option_reader.hpp>

using namespace nbd_test;
using nbd::errc;
using nbd::handshake::option_reader;
using found = option_reader::found;

TEST_CASE("handshake/option_reader: client flags, then options one after the other")
{
    const nbd::settings limits;
    option_reader reader{limits};
    CHECK(reader.untouched());
    CHECK(reader.bytes_needed() == 4);
    REQUIRE(reader.process(hex("01020304")) == found::client_flags);
    CHECK(reader.client_flags() == 0x01020304);
    CHECK_FALSE(reader.untouched());
    for (int i = 0; i < 2; ++i) {
        CHECK(reader.between_options());
        CHECK(reader.bytes_needed() == 16);
        REQUIRE(reader.process(option(3)) == found::option);
        CHECK(reader.data().empty());
        const auto with_data = hex("49484156454f5054 00000007 00000003");
        REQUIRE(reader.process(with_data) == found::nothing);
        CHECK_FALSE(reader.between_options());
        CHECK(reader.option() == nbd::protocol::option_header{nbd::protocol::option::go, 3});
        CHECK(reader.bytes_needed() == 3);
        const auto data = hex("aabbcc");
        REQUIRE(reader.process(data) == found::option);
        CHECK(reader.data().data() == data.data());
        CHECK(reader.data().size() == 3);
    }
}

TEST_CASE("handshake/option_reader: data that are too long are discarded in small pieces")
{
    const nbd::settings limits{.option_bytes = 100};
    option_reader reader{limits};
    std::ignore = reader.process(client_flags());
    REQUIRE(reader.process(hex("49484156454f5054 00000007 00002001")) == found::nothing);
    for (const std::size_t n : {4096U, 4096U}) {
        CHECK(reader.bytes_needed() == n);
        REQUIRE(reader.process(bytes(n)) == found::nothing);
    }
    CHECK(reader.bytes_needed() == 1);
    CHECK(reader.process(bytes(1)) == found::oversized_option);
    CHECK(reader.data().empty());
    CHECK(reader.between_options());
}

TEST_CASE("handshake/option_reader: a broken rule or an exceeded limit is a violation")
{
    const nbd::settings limits{.options_per_handshake = 2, .handshake_bytes = 200'000};
    option_reader reader{limits};
    std::ignore = reader.process(client_flags());
    SECTION("another magic")
    {
        CHECK(reader.process(bytes(16)) == found::violation);
        CHECK(reader.violation() == errc::bad_option_magic);
    }
    SECTION("too many options, unless more are allowed")
    {
        for (int i = 0; i < 2; ++i)
            CHECK(reader.process(option(3)) == found::option);
        reader.allow_more(1);
        CHECK(reader.process(option(3)) == found::option);
        CHECK(reader.process(option(3)) == found::violation);
        CHECK(reader.violation() == errc::too_many_options);
    }
    SECTION("too many bytes")
    {
        CHECK(reader.process(hex("49484156454f5054 00000007 00030d41")) == found::violation);
        CHECK(reader.violation() == errc::handshake_too_long);
    }
    SECTION("an EXPORT_NAME that is too long")
    {
        CHECK(reader.process(hex("49484156454f5054 00000001 00010001")) == found::violation);
        CHECK(reader.violation() == errc::export_name_refused);
    }
}
