// SPDX-License-Identifier: MIT
#include "../catch.hpp"
#include "compositions.hpp"

using namespace faults;

// Known: where the initiation of an operation of the windowed loop fails, the session or its client can hang.
#define KNOWN_FAULTS()                                                                             \
    if (!full())                                                                                   \
    NBD_SKIP("known faults of awaited backends")

TEST_CASE("one allocation fails: per_client_threads, waiting")
{
    KNOWN_FAULTS();
    sweep(composed<waiting, nbd::per_client_threads>("per_client_threads"));
}

TEST_CASE("one allocation fails: strand_pool{1}, waiting")
{
    KNOWN_FAULTS();
    sweep(composed<waiting, nbd::strand_pool>("strand_pool{1}"));
}

TEST_CASE("one allocation fails: strand_pool{1}, waiting_in_turn")
{
    KNOWN_FAULTS();
    sweep(composed<waiting_in_turn, nbd::strand_pool>("strand_pool{1}"));
}

TEST_CASE("one allocation fails: on_executor, waiting")
{
    KNOWN_FAULTS();
    sweep(composed<waiting, nbd::on_executor<>>("on_executor"));
}
