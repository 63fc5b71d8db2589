// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/transport/fd_transport.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

#include <array>
#include <string>
#include <system_error>

#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

using nbd::fd_transport;
using nbd::owned_descriptor;
namespace asio = boost::asio;

static_assert(nbd::transport<fd_transport> && nbd::connected_transport<fd_transport>);

namespace {

std::error_code listen(fd_transport& transport)
{
    asio::io_context context;
    nbd::stream_protocol::acceptor acceptor{context};
    const auto failed = transport.listen(acceptor);
    CHECK_FALSE(acceptor.is_open());
    return failed;
}
std::array<int, 2> make_pair(int type = SOCK_STREAM)
{
    std::array<int, 2> pair{};
    REQUIRE(::socketpair(AF_UNIX, type, 0, pair.data()) == 0);
    return pair;
}
bool is_open(int fd)
{
    return ::fcntl(fd, F_GETFD) >= 0;
}
ino_t identity(int fd)
{
    struct ::stat about {};
    REQUIRE(::fstat(fd, &about) == 0);
    return about.st_ino;
}

}  // namespace

TEST_CASE("transport/fd_transport: one socket on both descriptors is the client's")
{
    const auto pair = make_pair();
    const owned_descriptor client{pair[0]};
    const int other = ::dup(pair[1]);
    const auto socket = identity(pair[1]);
    fd_transport transport{{.in = pair[1], .out = other}};
    REQUIRE_FALSE(listen(transport));
    CHECK_FALSE(is_open(pair[1]));
    CHECK_FALSE(is_open(other));
    const auto connected = transport.connected();
    REQUIRE(connected.get() >= 0);
    CHECK(identity(connected.get()) == socket);
    CHECK((::fcntl(connected.get(), F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(transport.connected().get() == -1);
}

TEST_CASE("transport/fd_transport: one descriptor can be both")
{
    const auto pair = make_pair();
    const owned_descriptor client{pair[0]};
    fd_transport transport{{.in = pair[1], .out = pair[1]}};
    REQUIRE_FALSE(listen(transport));
    CHECK(transport.connected().get() >= 0);
}

TEST_CASE("transport/fd_transport: two pipes become a socket")
{
    std::array<int, 2> requests{};
    std::array<int, 2> replies{};
    REQUIRE((::pipe(requests.data()) == 0 && ::pipe(replies.data()) == 0));
    const owned_descriptor to{requests[1]};
    const owned_descriptor from{replies[0]};
    fd_transport transport{{.in = requests[0], .out = replies[1]}};
    REQUIRE_FALSE(listen(transport));
    const auto connected = transport.connected();
    REQUIRE(connected.get() >= 0);
    char byte = 'q';
    REQUIRE(::write(to.get(), &byte, 1) == 1);
    CHECK(::read(connected.get(), &byte, 1) == 1);
    CHECK(byte == 'q');
    byte = 'a';
    REQUIRE(::write(connected.get(), &byte, 1) == 1);
    CHECK(::read(from.get(), &byte, 1) == 1);
    CHECK(byte == 'a');
}

TEST_CASE("transport/fd_transport: stdin and stdout become /dev/null")
{
    const owned_descriptor in{::dup(0)};
    const owned_descriptor out{::dup(1)};
    const auto pair = make_pair();
    const owned_descriptor client{pair[0]};
    REQUIRE((::dup2(pair[1], 0) == 0 && ::dup2(pair[1], 1) == 1));
    ::close(pair[1]);
    fd_transport transport{{}};
    const auto failed = listen(transport);
    struct ::stat null {};
    struct ::stat now[2]{};
    ::stat("/dev/null", &null);
    ::fstat(0, &now[0]);
    ::fstat(1, &now[1]);
    ::dup2(in.get(), 0);
    ::dup2(out.get(), 1);
    CHECK_FALSE(failed);
    CHECK(now[0].st_rdev == null.st_rdev);
    CHECK(now[1].st_rdev == null.st_rdev);
    CHECK(transport.connected().get() > 2);
}

TEST_CASE("transport/fd_transport: what cannot be a client is an error, and is left as it is")
{
    fd_transport absent{{.in = -1, .out = -1}};
    CHECK(listen(absent) == std::errc::bad_file_descriptor);
    const owned_descriptor unconnected{::socket(AF_UNIX, SOCK_STREAM, 0)};
    fd_transport listening{{.in = unconnected.get(), .out = unconnected.get()}};
    CHECK(listen(listening) == std::errc::not_connected);
    CHECK(is_open(unconnected.get()));
    CHECK(listening.connected().get() == -1);
}

TEST_CASE("transport/fd_transport: what is told of the client")
{
    asio::io_context context;
    nbd::client who;
    const auto describe = [&](int in, int out) {
        fd_transport transport{{.in = in, .out = out}};
        REQUIRE_FALSE(listen(transport));
        nbd::stream_protocol::socket socket{context};
        auto connected = transport.connected();
        socket.assign({AF_UNIX, 0}, connected.release());
        transport.peer(socket).describe(who);
        CHECK(who.transport == "fd");
    };
    SECTION("of a UNIX socket: its process")
    {
        const auto pair = make_pair();
        const owned_descriptor client{pair[0]};
        describe(pair[1], pair[1]);
        REQUIRE(who.process);
        CHECK(who.process->process == ::getpid());
        CHECK(who.process->user == ::getuid());
        CHECK(who.process->group == ::getgid());
        CHECK_FALSE(who.address);
    }
    SECTION("of TCP: its address and port")
    {
        const std::string address = GENERATE("127.0.0.1", "::1");
        asio::ip::tcp::acceptor acceptor{context, {asio::ip::make_address(address), 0}};
        asio::ip::tcp::socket client{context};
        client.connect(acceptor.local_endpoint());
        const int accepted = acceptor.accept().release();
        describe(accepted, accepted);
        REQUIRE(who.address);
        CHECK(*who.address
              == (address == "::1" ? nbd::ip_address{asio::ip::make_address_v6("::1").to_bytes()}
                                   : nbd::ip_address::v4({127, 0, 0, 1})));
        CHECK(who.port == client.local_endpoint().port());
        CHECK_FALSE(who.process);
    }
    SECTION("of pipes: nothing")
    {
        std::array<int, 2> requests{};
        std::array<int, 2> replies{};
        REQUIRE(::pipe(requests.data()) == 0);
        REQUIRE(::pipe(replies.data()) == 0);
        const owned_descriptor writes{requests[1]};
        const owned_descriptor reads{replies[0]};
        describe(requests[0], replies[1]);
        CHECK_FALSE(who.process);
        CHECK_FALSE(who.address);
    }
}

TEST_CASE("transport/fd_transport: texts")
{
    CHECK(nbd::fd_peer{}.text() == "stdin");
    CHECK(nbd::fd_peer{5}.text() == "descriptor 5");
    CHECK(fd_transport{{}}.where() == "stdin and stdout");
    CHECK(fd_transport{{.in = 4, .out = 5}}.where() == "descriptors 4 and 5");
    CHECK(fd_transport{{}}.uri({}, "disk").empty());
}
