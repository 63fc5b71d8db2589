// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "faults/compositions.hpp"

using namespace faults;

TEST_CASE("one step fails: per_client_threads, lent")
{
    sweep(composed<lent, nbd::per_client_threads>("per_client_threads"));
}

TEST_CASE("one step fails: per_client_threads, copied")
{
    sweep(composed<copied, nbd::per_client_threads>("per_client_threads"));
}
