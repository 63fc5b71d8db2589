// SPDX-License-Identifier: MIT
#include "grid/suite.hpp"

using combination = grid::every_backend<nbd::tcp_transport, nbd::strand_pool>;

TEST_CASE("tcp_transport, strand_pool: handshake")
{
    combination::handshake();
}
TEST_CASE("tcp_transport, strand_pool: data")
{
    combination::data();
}
TEST_CASE("tcp_transport, strand_pool: refusals")
{
    combination::refusal();
}
