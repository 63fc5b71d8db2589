// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "faults/compositions.hpp"

using namespace faults;

TEST_CASE("one step fails: strand_pool{1}, lent")
{
    sweep(composed<lent, nbd::strand_pool>("strand_pool{1}"));
}

TEST_CASE("one step fails: strand_pool{1}, copied")
{
    sweep(composed<copied, nbd::strand_pool>("strand_pool{1}"));
}
