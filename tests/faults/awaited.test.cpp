// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "faults/compositions.hpp"

using namespace faults;

TEST_CASE("one step fails: per_client_threads, waiting")
{
    sweep(composed<waiting, nbd::per_client_threads>("per_client_threads"));
}

TEST_CASE("one step fails: strand_pool{1}, waiting")
{
    sweep(composed<waiting, nbd::strand_pool>("strand_pool{1}"));
}

TEST_CASE("one step fails: strand_pool{1}, waiting_in_turn")
{
    sweep(composed<waiting_in_turn, nbd::strand_pool>("strand_pool{1}"));
}

TEST_CASE("one step fails: on_executor, waiting")
{
    sweep(composed<waiting, nbd::on_executor<>>("on_executor"));
}
