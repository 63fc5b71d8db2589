// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/error.hpp>
#include <nbd/transport/any_of.hpp>
#include <nbd/transport/fd_transport.hpp>
#include <nbd/transport/tcp_transport.hpp>
#include <nbd/transport/unix_transport.hpp>
#include <nbd/transport/vsock_transport.hpp>

#include <boost/asio/io_context.hpp>

#include <cstddef>
#include <filesystem>
#include <string>
#include <system_error>
#include <type_traits>
#include <variant>

#include <unistd.h>

namespace asio = boost::asio;
using nbd::stream_protocol;
using nbd::tcp_transport;
using nbd::unix_transport;
using nbd::vsock_transport;
using both = nbd::any_of<unix_transport, tcp_transport, vsock_transport>;

static_assert(nbd::transport<both> && nbd::several_addresses<both>);
static_assert(!nbd::securing_transport<both> && !nbd::connected_transport<both>);
static_assert(nbd::connected_transport<nbd::any_of<unix_transport, nbd::fd_transport>>);
static_assert(!nbd::several_addresses<tcp_transport>);

namespace {

std::string socket_path(const char* name)
{
    return "/tmp/nbd-any-" + std::to_string(::getpid()) + name;
}

struct listener {
    explicit listener(both::settings s) : transport{std::move(s)} {}
    std::error_code listen(std::size_t address, stream_protocol::acceptor& at)
    {
        return transport.listen(at, address);
    }

    asio::io_context context;
    stream_protocol::acceptor first{context};
    stream_protocol::acceptor second{context};
    both transport;
};

}  // namespace

TEST_CASE("transport/any_of: each address is listened at by its transport")
{
    const auto path = socket_path("listen");
    listener l{{tcp_transport::settings{.port = 0}, unix_transport::settings{.path = path}}};
    CHECK(l.transport.addresses() == 2);
    CHECK(l.transport.where() == "127.0.0.1 port 0, " + path);
    REQUIRE_FALSE(l.listen(0, l.first));
    REQUIRE_FALSE(l.listen(1, l.second));
    const auto tcp = l.first.local_endpoint();
    CHECK(tcp.protocol().family() == AF_INET);
    CHECK(l.transport.uri(tcp, "x", 0).starts_with("nbd://127.0.0.1:"));
    CHECK(l.transport.uri(l.second.local_endpoint(), "x", 1) == "nbd+unix:///x?socket=" + path);

    for (const std::size_t address : {0U, 1U}) {
        auto& listening = address == 0 ? l.first : l.second;
        stream_protocol::socket client{l.context};
        client.connect(listening.local_endpoint());
        auto accepted = listening.accept();
        l.transport.prepare(accepted, address);
        const auto peer = l.transport.peer(accepted, address);
        CHECK(peer.address == address);
        CHECK(peer.of.index() == (address == 0 ? 1 : 0));
        CHECK(peer.text()
              == (address == 0 ? std::get<nbd::tcp_peer>(peer.of).text()
                               : "pid " + std::to_string(::getpid()) + " uid "
                          + std::to_string(::getuid())));
        const bool is_unix = peer.visit(
            []<class Peer>(const Peer&) { return std::is_same_v<Peer, nbd::unix_peer>; });
        CHECK(is_unix == (address == 1));
    }
    l.transport.close();
    CHECK_FALSE(std::filesystem::exists(path));
}

TEST_CASE("transport/any_of: where() names the address that cannot be listened at")
{
    const auto path = socket_path("taken");
    listener l{{unix_transport::settings{.path = path},
                tcp_transport::settings{.address = "192.0.2.1", .port = 1}}};
    REQUIRE_FALSE(l.listen(0, l.first));
    CHECK(l.listen(1, l.second) == std::errc::address_not_available);
    CHECK(l.transport.where() == "192.0.2.1 port 1");
    l.transport.close();
    CHECK_FALSE(std::filesystem::exists(path));
    CHECK(both{{}}.where() == "nothing");
}

TEST_CASE("transport/any_of: a socket of the program fits the transport of its family")
{
    const both transport{{tcp_transport::settings{}, unix_transport::settings{.path = "/x"},
                          unix_transport::settings{.path = "/y"}}};
    const stream_protocol::endpoint local{asio::local::stream_protocol::endpoint{"/z"}};
    const stream_protocol::endpoint unnamed{asio::local::stream_protocol::endpoint{}};
    const stream_protocol::endpoint v4{
        asio::ip::tcp::endpoint{asio::ip::make_address("127.0.0.1"), 1}};
    const stream_protocol::endpoint v6{asio::ip::tcp::endpoint{asio::ip::make_address("::1"), 1}};
    const stream_protocol::endpoint vsock{nbd::vsock_protocol::make_endpoint(1, 1)};
    CHECK(transport.fitting(v4, IPPROTO_TCP) == 0U);
    CHECK(transport.fitting(v6, IPPROTO_TCP) == 0U);
    CHECK(transport.fitting(local, 0) == 1U);
    CHECK(transport.fitting(unnamed, 0) == 1U);
    CHECK_FALSE(transport.fitting(v4, IPPROTO_SCTP));
    CHECK_FALSE(transport.fitting(vsock, 0));  // there is no such address
    CHECK(both{{vsock_transport::settings{}}}.fitting(vsock, 0) == 0U);
    CHECK_FALSE(both{{}}.fitting(local, 0));
}

TEST_CASE("transport/any_of: peers of different transports are never of one origin")
{
    using peer = nbd::any_peer<nbd::tcp_peer, nbd::unix_peer, nbd::tcp_peer>;
    const nbd::tcp_peer tcp{{asio::ip::make_address("127.0.0.1"), 1}};
    const peer plain{0, decltype(peer::of){std::in_place_index<0>, tcp}};
    const peer again{7, decltype(peer::of){std::in_place_index<0>, tcp}};
    const peer secured{1, decltype(peer::of){std::in_place_index<2>, tcp}};
    const peer local{2, decltype(peer::of){std::in_place_index<1>}};
    CHECK(same_origin(plain, again));
    CHECK_FALSE(same_origin(plain, secured));
    CHECK_FALSE(same_origin(plain, local));
    CHECK(same_origin(local, local));
}
