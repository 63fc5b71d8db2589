// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/authorise/address_prefix.hpp>

#include <boost/asio/ip/address.hpp>

#include <stdexcept>
#include <string>
#include <tuple>

namespace {

nbd::ip_address ip(const std::string& text)
{
    const auto a = boost::asio::ip::make_address(text);
    return a.is_v4() ? nbd::ip_address::v4(a.to_v4().to_bytes())
                     : nbd::ip_address{a.to_v6().to_bytes()};
}
bool contains(const std::string& prefix, const std::string& address)
{
    return nbd::address_prefix{prefix}.contains(ip(address));
}
std::string error_for(const std::string& text)
{
    try {
        std::ignore = nbd::address_prefix{text};
    } catch (const std::invalid_argument& e) {
        return e.what();
    }
    return "none";
}

}  // namespace

TEST_CASE("ip_address: a mapped address is the IPv4 address")
{
    CHECK(ip("::ffff:10.0.0.1") == ip("10.0.0.1"));
    CHECK(ip("::ffff:10.0.0.1").is_v4());
    CHECK_FALSE(ip("::10.0.0.1").is_v4());
    CHECK_FALSE(ip("::1").is_v4());
    CHECK(ip("::10.0.0.1") != ip("10.0.0.1"));
    CHECK_FALSE(nbd::ip_address{}.is_v4());
}

TEST_CASE("address_prefix: the addresses in it")
{
    const auto [prefix, address, expected] = GENERATE(table<std::string, std::string, bool>({
        {"192.0.2.7", "192.0.2.7", true},
        {"192.0.2.7", "192.0.2.6", false},
        {"192.0.2.7", "192.0.2.71", false},  // not as texts
        {"10.0.0.0/8", "10.255.255.255", true},
        {"10.0.0.0/8", "11.0.0.0", false},
        {"10.0.0.0/8", "9.255.255.255", false},
        {"10.1.2.0/23", "10.1.3.255", true},
        {"10.1.2.0/23", "10.1.4.0", false},
        {"10.1.2.0/23", "10.1.1.255", false},
        {"10.0.0.128/25", "10.0.0.128", true},
        {"10.0.0.128/25", "10.0.0.127", false},
        {"10.0.0.2/31", "10.0.0.3", true},
        {"10.0.0.2/31", "10.0.0.4", false},
        {"10.0.0.1/32", "10.0.0.1", true},
        {"0.0.0.0/0", "255.255.255.255", true},
        {"0.0.0.0/0", "::1", false},
        {"::/0", "2001:db8::1", true},
        {"::/0", "10.0.0.1", false},
        {"::1", "::1", true},
        {"::1", "::2", false},
        {"::1", "0.0.0.1", false},
        {"0:0:0:0:0:0:0:1", "::1", true},
        {"fe80::/10", "febf::1", true},
        {"fe80::/10", "fec0::1", false},
        {"2001:db8::/33", "2001:db8:7fff::", true},
        {"2001:db8::/33", "2001:db8:8000::", false},
        // Mapped ones: CVE-2013-6410 let a client in whose address only begins like an entry.
        {"10.0.0.0/8", "::ffff:10.1.2.3", true},
        {"10.0.0.0/8", "::ffff:11.1.2.3", false},
        {"10.0.0.0/8", "::10.1.2.3", false},
        {"::ffff:10.0.0.0/104", "10.1.2.3", true},
        {"::ffff:10.0.0.0/104", "11.1.2.3", false},
        {"::ffff:10.0.0.1", "10.0.0.1", true},
        {"::ffff:0.0.0.0/96", "192.0.2.1", true},
        {"::/1", "192.0.2.1", false},
    }));
    INFO(prefix << ' ' << address);
    CHECK(contains(prefix, address) == expected);
}

TEST_CASE("address_prefix: what is none")
{
    const auto text =
        GENERATE(as<std::string>{}, "", " ", "/", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1",
                 "10.0.0.0/+8", "10.0.0.0/ 8", "10.0.0.0/8 ", "10.0.0.0/8/8", "10.0.0.0/4294967304",
                 "10.0.0.0/255.0.0.0", "10/8", "10.0.0", "10.0.0.0.0", "256.0.0.1", "010.0.0.1",
                 "0x0a.0.0.1", " 10.0.0.1", "10.0.0.1 ", "10.0.0.*", "localhost", "::/129",
                 ":::", "1::2::3", "fe80::1%1", "fe80::%lo/10", "[::1]", "::1/", "10.0.0.1:80",
                 std::string{"10.0.0.1\0x", 10});
    INFO(text);
    const auto said = error_for(text);
    CHECK(said.find("expected an IP address or a prefix") != said.npos);
    CHECK(said.find("but got \"" + nbd::printable(text) + '"') != said.npos);
}

TEST_CASE("address_prefix: bits behind the length of a prefix are an error that says the prefix")
{
    CHECK(error_for("10.0.0.1/8").find("expected 10.0.0.0/8, ") != std::string::npos);
    CHECK(error_for("10.0.0.1/8").find("\"10.0.0.1/8\"") != std::string::npos);
    CHECK(error_for("0.0.0.1/0").find("expected 0.0.0.0/0, ") != std::string::npos);
    CHECK(error_for("fe80::1/10").find("expected fe80::/10, ") != std::string::npos);
    CHECK(error_for("::ffff:10.0.0.0/90").find("expected ::ff") != std::string::npos);
}
