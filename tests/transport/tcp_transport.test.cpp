// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/transport/tcp_transport.hpp>

#include <boost/asio/io_context.hpp>

#include <string>

using nbd::tcp_transport;
namespace asio = boost::asio;
using asio::ip::tcp;

namespace {

struct listener {
    explicit listener(tcp_transport::settings s) : transport{std::move(s)} {}
    std::error_code listen() { return transport.listen(socket); }
    std::uint16_t port() const { return socket.local_endpoint().port(); }

    asio::io_context context;
    tcp::acceptor socket{context};
    tcp_transport transport;
};

bool answers(const tcp::endpoint& at)
{
    asio::io_context context;
    tcp::socket client{context};
    boost::system::error_code failed;
    client.connect(at, failed);
    return !failed;
}
tcp::endpoint at(const char* address, std::uint16_t port)
{
    return {asio::ip::make_address(address), port};
}
bool has_ipv6()
{
    asio::io_context context;
    tcp::acceptor probe{context};
    boost::system::error_code failed;
    probe.open(tcp::v6(), failed);
    if (!failed)
        probe.bind(at("::1", 0), failed);
    return !failed;
}

}  // namespace

TEST_CASE("transport/tcp_transport: port 0 selects a free port, which is reported")
{
    listener l{{.port = 0}};
    REQUIRE_FALSE(l.listen());
    CHECK(l.port() != 0);
    CHECK(answers(at("127.0.0.1", l.port())));
    CHECK(l.socket.local_endpoint().address().is_loopback());
    CHECK(l.transport.uri(l.socket.local_endpoint(), "a b")
          == "nbd://127.0.0.1:" + std::to_string(l.port()) + "/a%20b");
    listener second{{.port = 0}};
    REQUIRE_FALSE(second.listen());
    CHECK(second.port() != l.port());
}

TEST_CASE("transport/tcp_transport: a port in use is an error, and nothing is left open (L10)")
{
    listener first{{.port = 0}};
    REQUIRE_FALSE(first.listen());
    listener second{{.port = first.port()}};
    CHECK(second.listen() == std::errc::address_in_use);
    CHECK_FALSE(second.socket.is_open());
    CHECK(answers(at("127.0.0.1", first.port())));
}

TEST_CASE("transport/tcp_transport: an address of another machine and an invalid one are errors")
{
    listener foreign{{.address = "192.0.2.1", .port = 0}};
    CHECK(foreign.listen() == std::errc::address_not_available);
    CHECK_FALSE(foreign.socket.is_open());
    listener nonsense{{.address = "256.1.1.1.", .port = 0}};
    CHECK(nonsense.listen());
    CHECK_FALSE(nonsense.socket.is_open());
}

TEST_CASE("transport/tcp_transport: IPv6, in brackets")
{
    if (!has_ipv6())
        NBD_SKIP("this machine has no ::1");
    listener l{{.address = "::1", .port = 0}};
    REQUIRE_FALSE(l.listen());
    CHECK(answers(at("::1", l.port())));
    CHECK_FALSE(answers(at("127.0.0.1", l.port())));
    CHECK(l.transport.uri(l.socket.local_endpoint(), "")
          == "nbd://[::1]:" + std::to_string(l.port()) + "/");
}

TEST_CASE("transport/tcp_transport: \"::\" accepts IPv6 and IPv4, and an IPv4 client is shown as "
          "one (N-11)")
{
    if (!has_ipv6())
        NBD_SKIP("this machine has no ::1");
    listener l{{.address = "::", .port = 0}};
    REQUIRE_FALSE(l.listen());
    CHECK(answers(at("::1", l.port())));
    (void)l.socket.accept();
    asio::io_context context;
    tcp::socket client{context};
    client.connect(at("127.0.0.1", l.port()));
    auto accepted = l.socket.accept();
    CHECK(l.transport.peer(accepted).text()
          == "127.0.0.1:" + std::to_string(client.local_endpoint().port()));
}

TEST_CASE("transport/tcp_transport: an IPv4-mapped address is written as IPv4 (N-11)")
{
    const tcp_transport transport{{}};
    CHECK(transport.uri(at("::ffff:192.0.2.7", 10809), "x") == "nbd://192.0.2.7:10809/x");
    CHECK(transport.uri(at("2001:db8::1", 1), "") == "nbd://[2001:db8::1]:1/");
    CHECK(transport.uri(at("192.0.2.7", 65535), "/x") == "nbd://192.0.2.7:65535//x");
}

TEST_CASE("transport/tcp_transport: accepted sockets have TCP_NODELAY unless it is off, and "
          "keep-alive (P4)")
{
    for (const bool no_delay : {true, false}) {
        listener l{{.port = 0, .no_delay = no_delay}};
        REQUIRE_FALSE(l.listen());
        tcp::socket client{l.context};
        client.connect(l.socket.local_endpoint());
        auto accepted = l.socket.accept();
        l.transport.prepare(accepted);
        tcp::no_delay set;
        accepted.get_option(set);
        CHECK(set.value() == no_delay);
        asio::socket_base::keep_alive kept;
        accepted.get_option(kept);
        CHECK(kept.value());
        CHECK(l.transport.peer(accepted).text()
              == "127.0.0.1:" + std::to_string(client.local_endpoint().port()));
    }
}
