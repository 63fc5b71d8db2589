// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/transport/peer_process.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <array>

#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

using nbd::owned_descriptor;
using nbd::peer_process;

TEST_CASE("transport/peer_process: the process that made the other end of a UNIX socket")
{
    std::array<int, 2> pair{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair.data()) == 0);
    const owned_descriptor ours{pair[0]};
    const owned_descriptor theirs{pair[1]};
    const auto found = peer_process(ours.get());
    REQUIRE(found);
    CHECK(found->process == ::getpid());
    CHECK(found->user == ::getuid());
    CHECK(found->group == ::getgid());
}

TEST_CASE("transport/peer_process: of another process, with its effective user and group")
{
    if (::geteuid() != 0)
        return;  // only root can become another user
    const owned_descriptor listening{::socket(AF_UNIX, SOCK_STREAM, 0)};
    ::sockaddr_un at{};
    at.sun_family = AF_UNIX;
    ::socklen_t size = sizeof(at.sun_family);  // the system chooses an abstract name
    REQUIRE(::bind(listening.get(), reinterpret_cast<const ::sockaddr*>(&at), size) == 0);
    size = sizeof(at);
    REQUIRE(::getsockname(listening.get(), reinterpret_cast<::sockaddr*>(&at), &size) == 0);
    REQUIRE(::listen(listening.get(), 1) == 0);
    std::array<int, 2> held{};
    REQUIRE(::pipe(held.data()) == 0);
    const auto child = ::fork();
    if (child == 0) {
        ::close(held[1]);
        const int client = ::socket(AF_UNIX, SOCK_STREAM, 0);
        char none = 0;
        const bool fine = ::setegid(4712) == 0 && ::seteuid(4711) == 0
            && ::connect(client, reinterpret_cast<const ::sockaddr*>(&at), size) == 0
            && ::read(held[0], &none, 1) == 0;  // until the parent has looked
        ::_exit(fine ? 0 : 1);
    }
    ::close(held[0]);
    const owned_descriptor accepted{::accept(listening.get(), nullptr, nullptr)};
    const auto found = peer_process(accepted.get());
    ::close(held[1]);
    int status = -1;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);
    REQUIRE(found);
    CHECK(found->process == child);
    CHECK(found->user == 4711);
    CHECK(found->group == 4712);
}

TEST_CASE("transport/peer_process: nothing where the system does not report one")
{
    const owned_descriptor tcp{::socket(AF_INET, SOCK_STREAM, 0)};
    CHECK_FALSE(peer_process(tcp.get()));
    const owned_descriptor unconnected{::socket(AF_UNIX, SOCK_STREAM, 0)};
    CHECK_FALSE(peer_process(unconnected.get()));
    CHECK_FALSE(peer_process(-1));
}
