// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/backend/supported.hpp>

#include <utility>

TEST_CASE("backend/supported: an operation is supported until it was found that it is not")
{
    nbd::supported first;
    nbd::supported second;
    CHECK((first && second));
    second.set_unsupported();
    CHECK((first && !second));

    nbd::supported moved{std::move(second)};
    CHECK_FALSE(moved);
    moved = std::move(first);
    CHECK(moved);
}
