// SPDX-License-Identifier: MIT
// Servers on several transports at once.
#include "catch.hpp"
#include "grid/tls.hpp"
#include <nbd/transport/any_of.hpp>
#include <nbd/transport/fd_transport.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <variant>
#include <vector>

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

using namespace grid;
using nbd::errc;
using proto::option;
using proto::option_reply;

namespace {

using tls_over_tcp = nbd::tls_transport<nbd::tcp_transport>;
using transport = nbd::any_of<nbd::unix_transport, tls_over_tcp, nbd::fd_transport>;

nbd::unix_transport::settings at_path()
{
    return somewhere<nbd::unix_transport>();
}

/// A server on the addresses of a test, and its credentials. Exports as those of tls_place.
template <class Policy>
struct place {
    using server_type = nbd::server<transport, disk_of<lending_view>, Policy, departures>;

    tls_over_tcp::settings tcp(tls_mode mode) const
    {
        return {.over = {.port = 0}, .mode = mode, .credentials = credentials};
    }
    void make(transport::settings at, nbd::settings limits = {})
    {
        server.emplace(typename server_type::options{
            .listen = std::move(at), .settings = limits, .observer = {&media}, .admit = admit()});
        server->exports().add("disk", disk_of<lending_view>{&media});
        server->exports().add("secret", disk_of<lending_view>{&media}, {.tls_only = true});
    }
    /// Notes who comes.
    auto admit()
    {
        return [this](const transport::peer_type& peer) {
            const std::lock_guard lock{media.mutex};
            peers.push_back(peer);
            return true;
        };
    }
    [[nodiscard]] raw_client client(std::size_t address) const
    {
        return raw_client{server->local_endpoints().at(address)};
    }
    [[nodiscard]] bool serves(raw_client& client)
    {
        return client.read(4096, 512)
            == bytes(media.content.begin() + 4096, media.content.begin() + 4608);
    }

    authority_and_server pki;
    nbd::tls_credentials credentials{{.certificates = pki.files.path()}};
    medium media;
    std::vector<transport::peer_type> peers;
    std::optional<server_type> server;
};

using blocking = place<nbd::per_client_threads>;
using pool = place<nbd::strand_pool>;

std::array<int, 2> make_pair()
{
    std::array<int, 2> pair{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) == 0);
    return pair;
}
option_reply answer_to_go(raw_client& client, std::string_view name)
{
    client.greet();
    return client.ask(option::go, raw_client::info_data(name)).back().type;
}

}  // namespace

TEMPLATE_TEST_CASE("any_of: clients of all transports at once, with TLS by address", "", blocking,
                   pool)
{
    TestType p;
    const auto path = at_path();
    p.make({path, p.tcp(tls_mode::forced), p.tcp(tls_mode::selective), p.tcp(tls_mode::none)});
    CHECK_THROWS_AS(p.server->uris(""), std::logic_error);
    p.server->start();

    const auto uris = p.server->uris("disk");
    REQUIRE(uris.size() == 4);
    CHECK(uris[0] == "nbd+unix:///disk?socket=" + path.path);
    CHECK(uris[0] == p.server->uri("disk"));
    CHECK(uris[1].starts_with("nbds://127.0.0.1:"));
    CHECK(uris[2].starts_with("nbds://127.0.0.1:"));
    CHECK(uris[3].starts_with("nbd://127.0.0.1:"));
    CHECK(uris[1] != uris[2]);

    auto local = p.client(0);
    local.greet();
    CHECK(local.ask(option::starttls).back().type == option_reply::err_unsup);
    CHECK(local.ask(option::go, raw_client::info_data("disk")).back().type == option_reply::ack);

    auto forced = p.client(1);
    CHECK(answer_to_go(forced, "disk") == option_reply::err_tls_reqd);
    tls_client secured{p.client(1), {}};
    REQUIRE(secured.start_tls());
    CHECK(secured.go_inside("secret") == option_reply::ack);

    auto chooses = p.client(2);
    CHECK(answer_to_go(chooses, "disk") == option_reply::ack);
    tls_client chose{p.client(2), {}};
    REQUIRE(chose.start_tls());
    CHECK(chose.go_inside("secret") == option_reply::ack);

    auto without = p.client(3);
    without.greet();
    CHECK(without.ask(option::starttls).back().type == option_reply::err_unsup);
    CHECK(without.ask(option::go, raw_client::info_data("disk")).back().type == option_reply::ack);

    CHECK(p.serves(local));
    CHECK(p.serves(secured));
    CHECK(p.serves(chooses));
    CHECK(p.serves(chose));
    CHECK(p.serves(without));

    const std::lock_guard lock{p.media.mutex};
    REQUIRE(p.peers.size() == 6);
    CHECK(std::get<nbd::unix_peer>(p.peers[0].of).user == ::getuid());
    CHECK(std::get<nbd::tcp_peer>(p.peers[5].of).endpoint.address().is_loopback());
    CHECK(p.peers[5].address == 3);
    CHECK(p.server->connections().front().peer == p.peers[0].text());
}

TEMPLATE_TEST_CASE("any_of: limits are for all transports together", "", blocking, pool)
{
    TestType p;
    p.make({at_path(), p.tcp(tls_mode::none)}, {.max_connections = 2});
    p.server->start();
    std::optional<raw_client> first{p.client(0)};
    auto second = p.client(1);
    CHECK(answer_to_go(*first, "disk") == option_reply::ack);
    CHECK(answer_to_go(second, "disk") == option_reply::ack);
    for (const std::size_t address : {1U, 0U}) {
        auto third = p.client(address);
        // It is greeted when another client has left, and not before.
        CHECK(p.serves(second));
        ::pollfd greeting{.fd = third.fd(), .events = POLLIN, .revents = 0};
        CHECK(::poll(&greeting, 1, 100) == 0);
        CHECK(p.server->connections().size() == 2);
        first->disconnect();
        CHECK(answer_to_go(third, "disk") == option_reply::ack);
        CHECK(p.serves(third));
        first.emplace(std::move(third));
    }
}

TEMPLATE_TEST_CASE("any_of: clients on one address do not keep out those on another", "", blocking,
                   pool)
{
    TestType p;
    p.make({at_path(), at_path()}, {.max_connections = 1});
    p.server->start();
    const std::size_t crowded = GENERATE(0U, 1U);
    // More than the server accepts before there are places.
    std::list<raw_client> crowd;
    for (int i = 0; i < 60; ++i)
        crowd.push_back(p.client(crowded));
    const auto other = p.client(1 - crowded);
    std::size_t before = 0;
    for (; !crowd.empty(); ++before, crowd.pop_front()) {
        std::array<::pollfd, 2> greeting{};
        greeting[0] = {.fd = other.fd(), .events = POLLIN, .revents = 0};
        greeting[1] = {.fd = crowd.front().fd(), .events = POLLIN, .revents = 0};
        REQUIRE(::poll(greeting.data(), 2, 20'000) > 0);
        if (greeting[0].revents != 0)
            break;
    }
    INFO(before << " clients of the other address came first");
    CHECK(before < 30);
}

TEMPLATE_TEST_CASE("any_of: if one address is in use, start fails and nothing is left", "",
                   blocking, pool)
{
    TestType first;
    first.make({at_path(), first.tcp(tls_mode::none)});
    first.server->start();
    ::sockaddr_in at{};
    std::memcpy(&at, first.server->local_endpoints()[1].data(), sizeof(at));
    const std::uint16_t taken = ntohs(at.sin_port);

    TestType second;
    const auto path = at_path();
    auto tcp = second.tcp(tls_mode::none);
    tcp.over.port = taken;
    second.make({path, tcp});
    try {
        second.server->start();
        FAIL("it starts");
    } catch (const std::system_error& e) {
        CHECK(e.code() == std::errc::address_in_use);
        const std::string said = e.what();
        CHECK(said.starts_with("nbd: cannot listen on 127.0.0.1 port " + std::to_string(taken)));
        CHECK(said.find(path.path) == std::string::npos);
    }
    CHECK_FALSE(std::filesystem::exists(path.path));
    CHECK(second.server->uris("").empty());

    auto client = first.client(1);
    CHECK(answer_to_go(client, "disk") == option_reply::ack);
}

TEMPLATE_TEST_CASE("any_of: stop removes every socket file", "", blocking, pool)
{
    TestType p;
    const auto one = at_path();
    const auto other = at_path();
    p.make({one, other});
    p.server->start();
    CHECK((std::filesystem::exists(one.path) && std::filesystem::exists(other.path)));
    auto client = p.client(1);
    CHECK(answer_to_go(client, "disk") == option_reply::ack);
    p.server->stop();
    CHECK_FALSE(std::filesystem::exists(one.path));
    CHECK_FALSE(std::filesystem::exists(other.path));
    CHECK(client.closed());
}

TEST_CASE("any_of: without an address there is nothing to start")
{
    blocking p;
    p.make({});
    std::error_code failed;
    p.server->start(failed);
    CHECK(failed == errc::no_address);
}

TEMPLATE_TEST_CASE("any_of: sockets of the program are served by the rules of their transport", "",
                   blocking, pool)
{
    TestType p;
    p.make({p.tcp(tls_mode::forced), nbd::unix_transport::settings{}});
    boost::asio::io_context context;
    boost::asio::ip::tcp::acceptor listening{context,
                                             {boost::asio::ip::make_address("127.0.0.1"), 0}};
    const auto at = listening.local_endpoint();
    p.server->start_on(listening.release());
    CHECK(p.server->uris("") == std::vector{"nbds://127.0.0.1:" + std::to_string(at.port()) + '/'});
    raw_client by_tcp{at};
    CHECK(answer_to_go(by_tcp, "disk") == option_reply::err_tls_reqd);

    const auto pair = make_pair();
    p.server->adopt(pair[0]);
    raw_client local{pair[1]};
    CHECK(answer_to_go(local, "disk") == option_reply::ack);
    CHECK(p.serves(local));

    std::error_code failed;
    p.server->adopt(::socket(AF_INET, SOCK_DGRAM, 0), failed);
    CHECK(failed == std::errc::wrong_protocol_type);

    TestType only_tcp;
    only_tcp.make({only_tcp.tcp(tls_mode::forced)});
    only_tcp.server->start();
    const auto unfit = make_pair();
    const nbd::owned_descriptor other_end{unfit[1]};
    only_tcp.server->adopt(unfit[0], failed);
    CHECK(failed == std::errc::wrong_protocol_type);
}

TEMPLATE_TEST_CASE("fd_transport: the server ends when its client has left", "", blocking, pool)
{
    TestType p;
    const auto pair = make_pair();
    p.make({nbd::fd_transport::settings{.in = pair[0], .out = pair[0]}});
    std::thread runs{[&] { p.server->run(); }};
    raw_client client{pair[1]};
    CHECK(answer_to_go(client, "disk") == option_reply::ack);
    CHECK(p.serves(client));
    client.disconnect();
    CHECK(client.closed());
    runs.join();
    CHECK_FALSE(p.media.departure());
    CHECK(p.server->uris("").empty());
    CHECK(p.peers.front().text() == "descriptor " + std::to_string(pair[0]));
}

TEST_CASE("fd_transport: the server ends if its client is refused, or leaves at once")
{
    for (const bool admits : {false, true}) {
        const auto pair = make_pair();
        medium media;
        nbd::server<nbd::fd_transport, disk_of<lending_view>> server{
            {.listen = {.in = pair[0], .out = pair[0]},
             .admit = [&](const nbd::fd_peer&) { return admits; }}};
        server.exports().add("disk", disk_of<lending_view>{&media});
        nbd::owned_descriptor client{pair[1]};
        if (admits)
            ::shutdown(client.get(), SHUT_RDWR);
        server.run();
    }
}

TEST_CASE("fd_transport: a pair of pipes")
{
    std::array<int, 2> requests{};
    std::array<int, 2> replies{};
    REQUIRE((::pipe(requests.data()) == 0 && ::pipe(replies.data()) == 0));
    medium media;
    nbd::server<nbd::fd_transport, disk_of<lending_view>> server{
        {.listen = {.in = requests[0], .out = replies[1]}}};
    server.exports().add("disk", disk_of<lending_view>{&media});
    std::thread runs{[&] { server.run(); }};
    const auto pair = make_pair();
    {
        // The client has a socket too.
        const nbd::descriptor_relay relay{nbd::owned_descriptor{replies[0]},
                                          nbd::owned_descriptor{requests[1]},
                                          nbd::owned_descriptor{pair[0]}};
        raw_client client{pair[1]};
        CHECK(answer_to_go(client, "disk") == option_reply::ack);
        const auto begin = media.content.begin();
        CHECK(client.read(0, 1 << 20) == bytes(begin, begin + (1 << 20)));
        client.close();  // no DISC
    }
    runs.join();
}
