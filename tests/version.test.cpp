// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/version.hpp>

#include <algorithm>
#include <string>

TEST_CASE("version: three numbers")
{
    const std::string version{nbd::version};
    CHECK(std::count(version.begin(), version.end(), '.') == 2);
    CHECK(version.find_first_not_of("0123456789.") == std::string::npos);
    CHECK(version.front() != '.');
    CHECK(version.back() != '.');
}
