// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/io/at_once.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/connect_pair.hpp>
#include <boost/asio/local/stream_protocol.hpp>

#include <array>
#include <string>
#include <tuple>
#include <vector>

namespace asio = boost::asio;
using nbd::io::read_at_once;
using nbd::io::write_at_once;

namespace {

using socket_type = asio::local::stream_protocol::socket;

struct pair {
    pair() { asio::local::connect_pair(here, there); }
    asio::io_context context;
    socket_type here{context};
    socket_type there{context};
};

struct no_socket {};

}  // namespace

TEST_CASE("io/at_once: bytes that are there are received, and nothing waits for others")
{
    pair p;
    std::array<char, 8> room{};
    CHECK(std::get<0>(read_at_once(p.here, asio::buffer(room))) == asio::error::would_block);
    CHECK(write_at_once(p.there, asio::buffer(std::string{"disk"}))
          == nbd::io::transfer{boost::system::error_code{}, 4});
    CHECK(read_at_once(p.here, asio::buffer(room))
          == nbd::io::transfer{boost::system::error_code{}, 4});
    CHECK(std::string{room.data(), 4} == "disk");
    p.there.close();
    CHECK(std::get<0>(read_at_once(p.here, asio::buffer(room))) == asio::error::eof);
    CHECK(std::get<0>(write_at_once(p.here, asio::buffer(room))) == asio::error::broken_pipe);
}

TEST_CASE("io/at_once: a full socket takes a part, then would block")
{
    pair p;
    const std::vector<char> much(std::size_t{64} << 20);
    const auto [error, n] = write_at_once(p.here, asio::buffer(much));
    CHECK_FALSE(error);
    CHECK(n < much.size());
    CHECK(std::get<0>(write_at_once(p.here, asio::buffer(much))) == asio::error::would_block);
}

TEST_CASE("io/at_once: a stream without a descriptor would block")
{
    no_socket stream;
    std::array<char, 8> room{};
    CHECK(std::get<0>(read_at_once(stream, asio::buffer(room))) == asio::error::would_block);
    CHECK(std::get<0>(write_at_once(stream, asio::buffer(room))) == asio::error::would_block);
}
