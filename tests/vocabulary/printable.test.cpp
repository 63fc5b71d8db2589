// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/vocabulary/printable.hpp>

#include <string>

TEST_CASE("vocabulary/printable: a name from the network cannot forge a line of a log (O18)")
{
    CHECK(nbd::printable("disk-1.img") == "disk-1.img");
    CHECK(nbd::printable("a\nb\r\t\x1b[1m") == "a\\x0ab\\x0d\\x09\\x1b[1m");
    CHECK(nbd::printable("\xc3\xa4\x7f\xff") == "\\xc3\\xa4\\x7f\\xff");
    CHECK(nbd::printable("back\\slash") == "back\\x5cslash");
    CHECK(nbd::printable(std::string_view{"\0", 1}) == "\\x00");
    CHECK(nbd::printable("") == "");
    CHECK(nbd::printable(std::string(80, 'x')) == std::string(80, 'x'));
    auto cut = std::string(80, 'x');
    cut += "...";
    CHECK(nbd::printable(std::string(81, 'x')) == cut);
}
