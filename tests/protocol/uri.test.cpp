// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/protocol/uri.hpp>

using namespace nbd::protocol;
using std::string_literals::operator""s;

TEST_CASE("protocol/uri: unreserved characters and slashes stay, all others are encoded")
{
    CHECK(percent_encode("") == "");
    CHECK(percent_encode("azAZ09-._~/") == "azAZ09-._~/");
    CHECK(percent_encode("a b") == "a%20b");
    CHECK(percent_encode("100%") == "100%25");
    CHECK(percent_encode("?#[]@!$&'()*+,;=:")
          == "%3F%23%5B%5D%40%21%24%26%27%28%29%2A%2B%2C%3B%3D%3A");
    CHECK(percent_encode("\"<>\\^`{|}") == "%22%3C%3E%5C%5E%60%7B%7C%7D");
    CHECK(percent_encode("\xc3\xa4\x7f\n"s + '\0') == "%C3%A4%7F%0A%00");
}

TEST_CASE("protocol/uri: every byte comes back when it is decoded")
{
    std::string all;
    for (int c = 0; c < 256; ++c)
        all += static_cast<char>(c);
    const auto encoded = percent_encode(all);
    std::string decoded;
    for (std::size_t i = 0; i < encoded.size(); ++i) {
        if (encoded[i] == '%') {
            decoded += static_cast<char>(std::stoi(encoded.substr(i + 1, 2), nullptr, 16));
            i += 2;
        } else {
            decoded += encoded[i];
        }
    }
    CHECK(decoded == all);
}

TEST_CASE("protocol/uri: TCP (P93, P94)")
{
    CHECK(tcp_uri("127.0.0.1:10809", "") == "nbd://127.0.0.1:10809/");
    CHECK(tcp_uri("[::1]:1234", "disk one") == "nbd://[::1]:1234/disk%20one");
    // the path less one slash: the name's own slash makes it two
    CHECK(tcp_uri("h:1", "/disk") == "nbd://h:1//disk");
}

TEST_CASE("protocol/uri: UNIX sockets, named and abstract (P93, P95)")
{
    CHECK(unix_uri("/tmp/a.sock", "test") == "nbd+unix:///test?socket=/tmp/a.sock");
    CHECK(unix_uri("/tmp/a&b=c d", "") == "nbd+unix:///?socket=/tmp/a%26b%3Dc%20d");
    CHECK(unix_uri("\0disk"s, "x?y") == "nbd+unix:///x%3Fy?socket=%00disk");
}
