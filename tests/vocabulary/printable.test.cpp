// SPDX-License-Identifier: MIT
#include <nbd/vocabulary/printable.hpp>

#include "../catch.hpp"

#include <string>

using nbd::printable;

TEST_CASE("vocabulary/printable: control characters, quotes and bytes above 126 are escaped")
{
    CHECK(printable("disk-1") == "disk-1");
    CHECK(printable("a\nb") == "a\\x0ab");
    CHECK(printable("\"\\") == "\\x22\\x5c");
    CHECK(printable("\x7f\xc3\xa4") == "\\x7f\\xc3\\xa4");
}

TEST_CASE("vocabulary/printable: a long name is cut")
{
    CHECK(printable(std::string(80, 'x')) == std::string(80, 'x'));
    CHECK(printable(std::string(81, 'x')) == std::string(80, 'x') + "...");
}
