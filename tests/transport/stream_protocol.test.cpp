// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/transport/stream_protocol.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/udp.hpp>

#include <typeinfo>

namespace asio = boost::asio;
using asio::ip::tcp;
using nbd::stream_protocol;

TEST_CASE("transport/stream_protocol: one acceptor and one socket are of any family")
{
    asio::io_context context;
    stream_protocol::acceptor listening{context};
    const tcp::endpoint loopback{asio::ip::make_address("127.0.0.1"), 0};
    listening.open(loopback.protocol());
    listening.bind(loopback);
    listening.listen();
    const auto local = listening.local_endpoint();
    CHECK(local.protocol().family() == AF_INET);
    CHECK(local.protocol().type() == SOCK_STREAM);
    stream_protocol::socket client{context};
    client.connect(local);
    CHECK(client.remote_endpoint() == local);
}

TEST_CASE("transport/stream_protocol: datagrams are refused")
{
    CHECK_THROWS_AS(stream_protocol{asio::ip::udp::v4()}, std::bad_cast);
}
