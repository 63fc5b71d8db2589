// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/transport/descriptor_relay.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <thread>

using nbd::owned_descriptor;

namespace {

std::array<int, 2> make_pipe()
{
    std::array<int, 2> ends{};
    REQUIRE(::pipe(ends.data()) == 0);
    return ends;
}

/// A relay between two pipes and a socket, and the other ends of these.
struct place {
    place()
    {
        const auto requests = make_pipe();
        const auto replies = make_pipe();
        std::array<int, 2> pair{};
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair.data()) == 0);
        to.emplace(requests[1]);
        from.emplace(replies[0]);
        server.emplace(pair[0]);
        relay.emplace(owned_descriptor{requests[0]}, owned_descriptor{replies[1]},
                      owned_descriptor{pair[1]});
    }
    std::optional<nbd::descriptor_relay> relay;  // first: its destructor waits for the others
    std::optional<owned_descriptor> to;          ///< what the client writes to
    std::optional<owned_descriptor> from;        ///< what the client reads
    std::optional<owned_descriptor> server;      ///< the socket of the server
};

void put(int fd, const std::string& text)
{
    REQUIRE(::write(fd, text.data(), text.size()) == static_cast<::ssize_t>(text.size()));
}
std::string take(int fd, std::size_t n)
{
    std::string all;
    std::array<char, 4096> some{};
    while (all.size() < n) {
        const auto got = ::read(fd, some.data(), std::min(some.size(), n - all.size()));
        if (got <= 0)
            return all + " and the end";
        all.append(some.data(), static_cast<std::size_t>(got));
    }
    return all;
}

}  // namespace

TEST_CASE("transport/descriptor_relay: bytes pass in both directions")
{
    place p;
    put(p.to->get(), "request");
    CHECK(take(p.server->get(), 7) == "request");
    put(p.server->get(), "a reply");
    CHECK(take(p.from->get(), 7) == "a reply");
}

TEST_CASE("transport/descriptor_relay: the end of the requests is passed on, and replies follow")
{
    place p;
    put(p.to->get(), "last");
    p.to.reset();
    CHECK(take(p.server->get(), 5) == "last and the end");
    put(p.server->get(), "reply");
    p.server.reset();
    CHECK(take(p.from->get(), 6) == "reply and the end");
}

TEST_CASE("transport/descriptor_relay: when the server closes, the client reads the end, although "
          "it may still write")
{
    place p;
    put(p.server->get(), "bye");
    p.server.reset();
    CHECK(take(p.from->get(), 4) == "bye and the end");
    p.relay.reset();  // returns
}

TEST_CASE("transport/descriptor_relay: a client that is gone is an end for the server")
{
    place p;
    p.from.reset();
    CHECK(take(p.server->get(), 1) == " and the end");
    p.relay.reset();
}

TEST_CASE("transport/descriptor_relay: a sender waits for a slow receiver, and nothing is lost")
{
    place p;
    const std::string all(std::size_t{8} << 20, 'x');
    std::thread client{[&] {
        std::size_t sent = 0;
        while (sent < all.size()) {
            const auto n = ::write(p.to->get(), all.data() + sent, all.size() - sent);
            if (n <= 0)
                break;
            sent += static_cast<std::size_t>(n);
        }
        p.to.reset();
    }};
    std::thread echo{[&] {
        const auto received = take(p.server->get(), all.size());
        for (std::size_t sent = 0; sent < received.size();) {
            const auto n = ::write(p.server->get(), received.data() + sent, received.size() - sent);
            if (n <= 0)
                break;
            sent += static_cast<std::size_t>(n);
        }
        p.server.reset();
    }};
    const bool whole = take(p.from->get(), all.size() + 1) == all + " and the end";
    CHECK(whole);
    client.join();
    echo.join();
}

TEST_CASE("transport/descriptor_relay: descriptors that others share block again afterwards")
{
    std::array<int, 2> pair{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair.data()) == 0);
    const auto requests = make_pipe();
    const auto replies = make_pipe();
    const owned_descriptor copy{::dup(requests[0])};
    {
        nbd::descriptor_relay relay{owned_descriptor{requests[0]}, owned_descriptor{replies[1]},
                                    owned_descriptor{pair[1]}};
        ::close(pair[0]);
    }
    CHECK((::fcntl(copy.get(), F_GETFL) & O_NONBLOCK) == 0);
    ::close(requests[1]);
    ::close(replies[0]);
}

TEST_CASE("transport/descriptor_relay: a client that takes no replies does not keep it")
{
    std::array<int, 2> pair{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair.data()) == 0);
    const auto requests = make_pipe();
    const auto replies = make_pipe();
    {
        nbd::descriptor_relay relay{owned_descriptor{requests[0]}, owned_descriptor{replies[1]},
                                    owned_descriptor{pair[1]}, std::chrono::milliseconds{50}};
        // More than the pipe and the relay hold, so that the relay waits for the pipe.
        const std::string all(std::size_t{512} << 10, 'r');
        for (std::size_t sent = 0; sent < all.size();) {
            const auto n = ::send(pair[0], all.data() + sent, all.size() - sent, MSG_DONTWAIT);
            ::pollfd room{.fd = pair[0], .events = POLLOUT, .revents = 0};
            if (n > 0)
                sent += static_cast<std::size_t>(n);
            else if (::poll(&room, 1, 200) <= 0)
                break;
        }
        ::close(pair[0]);
    }  // waits for its thread
    ::pollfd gone{.fd = replies[0], .events = POLLIN, .revents = 0};
    CHECK(::poll(&gone, 1, 0) == 1);
    ::close(requests[1]);
    ::close(replies[0]);
}
