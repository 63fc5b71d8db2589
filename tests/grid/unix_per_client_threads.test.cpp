// SPDX-License-Identifier: MIT
#include "grid/suite.hpp"

using combination = grid::every_backend<nbd::unix_transport, nbd::per_client_threads>;

TEST_CASE("unix_transport, per_client_threads: handshake")
{
    combination::handshake();
}
TEST_CASE("unix_transport, per_client_threads: data")
{
    combination::data();
}
TEST_CASE("unix_transport, per_client_threads: refusals")
{
    combination::refusal();
}
