// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "faults/compositions.hpp"

using namespace faults;

TEST_CASE("one step fails: strand_pool{1}, in_file")
{
    sweep(composed<in_file, nbd::strand_pool>("strand_pool{1}"));
}

TEST_CASE("one step fails: strand_pool{1}, blocked")
{
    sweep(composed<blocked, nbd::strand_pool>("strand_pool{1}"));
}
