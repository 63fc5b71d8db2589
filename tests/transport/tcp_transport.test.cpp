// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/transport/tcp_transport.hpp>

#include <boost/asio/io_context.hpp>

#include <chrono>
#include <limits>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

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

using std::chrono::milliseconds;

std::chrono::milliseconds user_timeout_of(tcp::socket& socket)
{
    int limit = -1;
    ::socklen_t size = sizeof(limit);
    ::getsockopt(socket.native_handle(), IPPROTO_TCP, TCP_USER_TIMEOUT, &limit, &size);
    return milliseconds{limit};
}

/// The loopback device of the calling thread's network.
bool set_loopback(bool up)
{
    const nbd::owned_descriptor fd{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
    ::ifreq request{};
    request.ifr_name[0] = 'l';
    request.ifr_name[1] = 'o';
    request.ifr_flags = up ? IFF_UP : 0;
    return ::ioctl(fd.get(), SIOCSIFFLAGS, &request) == 0;
}

/// Sends a byte to a client that has vanished from the network without a word. *Returns* how the
/// connection ends, success if it does not within `patience`, nothing where the calling thread has
/// no network of its own.
std::optional<std::error_code> without_client(milliseconds user_timeout, milliseconds patience)
{
    std::optional<std::error_code> seen;
    std::thread{[&] {
        if (::unshare(CLONE_NEWNET) != 0 || !set_loopback(true))
            return;
        listener l{{.port = 0, .user_timeout = user_timeout}};
        if (l.listen())
            return;
        tcp::socket client{l.context};
        client.connect(l.socket.local_endpoint());
        auto accepted = l.socket.accept();
        l.transport.prepare(accepted);
        if (!set_loopback(false))
            return;
        accepted.send(asio::buffer("x", 1));
        ::pollfd event{accepted.native_handle(), POLLIN, 0};
        ::poll(&event, 1, static_cast<int>(patience.count()));
        int error = 0;
        ::socklen_t size = sizeof(error);
        ::getsockopt(accepted.native_handle(), SOL_SOCKET, SO_ERROR, &error, &size);
        seen = std::error_code{error, std::system_category()};
    }}.join();
    return seen;
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

TEST_CASE("transport/tcp_transport: accepted sockets have the user timeout (S08)")
{
    CHECK(tcp_transport::settings{}.user_timeout == std::chrono::minutes{2});
    const std::pair<milliseconds, milliseconds> table[] = {
        {tcp_transport::settings{}.user_timeout, std::chrono::minutes{2}},
        {milliseconds{0}, milliseconds{0}},
        {milliseconds{1}, milliseconds{1}},
        {milliseconds::max(), milliseconds{std::numeric_limits<int>::max()}}};
    for (const auto& [asked, expected] : table) {
        listener l{{.port = 0, .user_timeout = asked}};
        REQUIRE_FALSE(l.listen());
        tcp::socket client{l.context};
        client.connect(l.socket.local_endpoint());
        auto accepted = l.socket.accept();
        l.transport.prepare(accepted);
        CHECK(user_timeout_of(accepted) == expected);
    }
}

TEST_CASE("transport/tcp_transport: a client that vanishes from the network is disconnected (S08)")
{
    const auto ended = without_client(milliseconds{300}, std::chrono::minutes{1});
    if (!ended)
        NBD_SKIP("this user cannot make a network (unshare, CLONE_NEWNET)");
    CHECK(*ended == std::errc::timed_out);
    CHECK(without_client(milliseconds{0}, milliseconds{1'500}) == std::error_code{});
}
