// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/protocol/meta_context.hpp>

#include <string>

using namespace nbd_test;
using nbd::protocol::decode_meta_request;
using nbd::protocol::meta_request;
using namespace std::string_literals;
constexpr auto list = nbd::protocol::option::list_meta_context;
constexpr auto set = nbd::protocol::option::set_meta_context;

namespace {
bytes string_of(std::string_view s)
{
    return big(static_cast<std::uint32_t>(s.size())) + text(s);
}
bytes data_of(std::string_view name, const std::vector<std::string>& queries)
{
    auto all = string_of(name) + big(static_cast<std::uint32_t>(queries.size()));
    for (const auto& q : queries)
        all = all + string_of(q);
    return all;
}
bool wants(const std::vector<std::string>& queries, std::string_view name, nbd::protocol::option o)
{
    const auto data = data_of("disk", queries);
    const auto r = decode_meta_request(data);
    REQUIRE(r);
    return r->wants(name, o);
}
}  // namespace

TEST_CASE("protocol/meta_context: the option's data in hex (P39)")
{
    const auto golden = hex("00000004 6469736b 00000002"
                            "0000000f 626173653a616c6c6f636174696f6e"
                            "00000005 626173653a");
    CHECK(shown(golden) == shown(data_of("disk", {"base:allocation", "base:"})));
    const auto r = decode_meta_request(golden);
    REQUIRE(r);
    CHECK(r->export_name == "disk");
    CHECK(r->count == 2);
    CHECK(r->wants("base:allocation", set));
    CHECK(nbd::protocol::base_allocation.name == "base:allocation");
    CHECK_FALSE(nbd::protocol::base_allocation.wide);
}

TEST_CASE("protocol/meta_context: the empty name and no queries are well-formed (P39, P41)")
{
    const auto none = hex("00000000 00000000");
    const auto r = decode_meta_request(none);
    REQUIRE(r);
    CHECK(r->export_name.empty());
    CHECK(r->count == 0);
    CHECK(r->wants("base:allocation", list));
    CHECK(r->wants("x-snap:changed", list));
    CHECK_FALSE(r->wants("base:allocation", set));
}

TEST_CASE("protocol/meta_context: truncated data and extra bytes are refused (P40)")
{
    const auto whole = data_of("disk", {"base:allocation", "x-a:b", ""});
    REQUIRE(decode_meta_request(whole));
    for (std::size_t n = 0; n < whole.size(); ++n) {
        CAPTURE(n);
        CHECK_FALSE(decode_meta_request(std::span{whole}.first(n)));
    }
    CHECK_FALSE(decode_meta_request(whole + hex("00")));
    CHECK_FALSE(decode_meta_request(whole + hex("00000000")));
}

TEST_CASE("protocol/meta_context: lengths that overrun or wrap are refused at once (P40)")
{
    for (const auto* const bad :
         {"ffffffff 00000000", "00000004 6469736b ffffffff", "00000004 6469736b 00000001 ffffffff",
          "00000004 6469736b 00000001 fffffffc 61", "00000004 6469736b 80000000 00000000",
          "00000008 6469736b 00000000"}) {
        CAPTURE(bad);
        CHECK_FALSE(decode_meta_request(hex(bad)));
    }
}

TEST_CASE("protocol/meta_context: an invalid string is refused (P2)")
{
    CHECK_FALSE(decode_meta_request(data_of("a\0b"s, {})));
    CHECK_FALSE(decode_meta_request(data_of("\xff", {})));
    CHECK_FALSE(decode_meta_request(data_of("a", {"base:\0"s})));
    CHECK_FALSE(decode_meta_request(data_of("a", {"base:\xc0\xaf"})));
    CHECK_FALSE(decode_meta_request(data_of(std::string(4097, 'x'), {})));
    CHECK_FALSE(decode_meta_request(data_of("a", {"x-a:" + std::string(4093, 'x')})));
    CHECK(decode_meta_request(data_of(std::string(4096, 'x'), {"x-a:" + std::string(4092, 'x')})));
}

TEST_CASE("protocol/meta_context: a name matches itself, byte for byte (P40)")
{
    for (const auto o : {list, set}) {
        CHECK(wants({"base:allocation"}, "base:allocation", o));
        CHECK(wants({"x-a:b", "nosuch:thing", "base:allocation"}, "base:allocation", o));
        for (const auto* const other :
             {"base:allocatio", "base:allocation2", "BASE:allocation", "base:allocation ",
              "allocation", "base", "", ":", "x-a:", "base:allocation:depth"}) {
            CAPTURE(other);
            CHECK_FALSE(wants({other}, "base:allocation", o));
        }
    }
}

TEST_CASE(
    "protocol/meta_context: an empty leaf matches its namespace in LIST, nothing in SET (P82)")
{
    CHECK(wants({"base:"}, "base:allocation", list));
    CHECK(wants({"x-snap:"}, "x-snap:changed", list));
    CHECK(wants({"x-snap:"}, "x-snap:depth:2", list));
    CHECK_FALSE(wants({"x-snap:"}, "x-snapshot:changed", list));
    CHECK_FALSE(wants({"x-snap:"}, "base:allocation", list));
    // not a wildcard: the colon at the end is not the end of a namespace
    CHECK_FALSE(wants({"x-snap:depth:"}, "x-snap:depth:2", list));
    CHECK_FALSE(wants({"x-snap"}, "x-snap:changed", list));

    CHECK_FALSE(wants({"base:"}, "base:allocation", set));
    CHECK_FALSE(wants({"x-snap:"}, "x-snap:changed", set));
}
