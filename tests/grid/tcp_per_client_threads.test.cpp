// SPDX-License-Identifier: MIT
#include "grid/suite.hpp"

using combination = grid::every_backend<nbd::tcp_transport, nbd::per_client_threads>;

TEST_CASE("tcp_transport, per_client_threads: handshake")
{
    combination::handshake();
}
TEST_CASE("tcp_transport, per_client_threads: data")
{
    combination::data();
}
TEST_CASE("tcp_transport, per_client_threads: refusals")
{
    combination::refusal();
}
