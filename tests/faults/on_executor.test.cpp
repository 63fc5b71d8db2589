// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "faults/compositions.hpp"

using namespace faults;

TEST_CASE("one step fails: on_executor, lent")
{
    sweep(composed<lent, nbd::on_executor<>>("on_executor"));
}
