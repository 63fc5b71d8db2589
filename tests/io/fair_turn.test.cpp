// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/io/fair_turn.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>

#include <cstddef>
#include <memory>

namespace asio = boost::asio;
using nbd::io::fair_turn;

namespace {

/// The length of the turn after others could run.
std::size_t next(fair_turn& turn)
{
    turn.end();
    turn.begin();
    return turn.length();
}

}  // namespace

TEST_CASE("io/fair_turn: without other clients a turn is long")
{
    asio::io_context context;
    fair_turn only;
    only.waits(context.get_executor());
    CHECK(next(only) == fair_turn::of_one);
    CHECK(next(only) == fair_turn::of_one);
    {
        fair_turn other;
        other.waits(context.get_executor());
        CHECK(only.length() == fair_turn::longest);  // at once
        CHECK(next(only) == fair_turn::longest);
    }
    CHECK(next(only) == fair_turn::of_one);
    asio::io_context elsewhere;
    fair_turn far;
    far.waits(elsewhere.get_executor());
    CHECK(next(only) == fair_turn::of_one);
}

TEST_CASE("io/fair_turn: a turn is short while another client uses its turns")
{
    asio::io_context context;
    fair_turn greedy;
    fair_turn other;
    greedy.waits(context.get_executor());
    other.waits(asio::any_io_executor{asio::make_strand(context)});  // of the same context
    greedy.end();
    other.waits(context.get_executor());
    greedy.begin();
    CHECK(greedy.length() == fair_turn::shortest);
    CHECK(next(greedy) == 2 * fair_turn::shortest);  // the other one has not run since
    greedy.end();
    next(other);
    greedy.begin();
    CHECK(greedy.length() == fair_turn::shortest);
    for (auto length = fair_turn::shortest; length < fair_turn::longest;)
        CHECK(next(greedy) == (length *= 2));
    CHECK(next(greedy) == fair_turn::longest);
}

TEST_CASE("io/fair_turn: the context may end first, and the first client may not have waited")
{
    fair_turn turn;
    CHECK(next(turn) == fair_turn::longest);
    {
        asio::io_context context;
        turn.waits(context.get_executor());
    }
    CHECK(next(turn) == fair_turn::of_one);
}
