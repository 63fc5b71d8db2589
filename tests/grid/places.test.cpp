// SPDX-License-Identifier: MIT
// Limits of connections: which client is admitted, and which one gives way.
#include "catch.hpp"
#include "grid/server_fixture.hpp"
#include <nbd/server.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

using namespace grid;

namespace {

/// Records the ends of connections.
struct end_recorder {
    struct record {
        std::mutex mutex;
        std::condition_variable more;
        std::vector<std::error_code> refused;
        std::string refused_peer;  ///< the last one
        std::vector<std::pair<std::uint64_t, std::error_code>> ends;
    };
    std::shared_ptr<record> kept = std::make_shared<record>();

    void at_accept_error(std::error_code why, std::string_view peer) const
    {
        const std::lock_guard lock{kept->mutex};
        kept->refused_peer = peer;
        kept->refused.push_back(why);
        kept->more.notify_all();
    }
    void at_disconnect(const nbd::client& who, std::error_code why) const
    {
        const std::lock_guard lock{kept->mutex};
        kept->ends.emplace_back(who.id, why);
    }
    [[nodiscard]] bool refused(std::error_code why) const
    {
        std::unique_lock lock{kept->mutex};
        return kept->more.wait_for(lock, std::chrono::seconds{20}, [&] {
            return !kept->refused.empty();
        }) && kept->refused.front() == why;
    }
    [[nodiscard]] std::string refused_peer() const
    {
        const std::lock_guard lock{kept->mutex};
        return kept->refused_peer;
    }
};

template <class Policy>
struct served {
    explicit served(const nbd::settings& limits)
        : server{{.listen = somewhere<nbd::unix_transport>(), .settings = limits}}
    {
        server.exports().add("disk", nbd::mem_backend{1 << 20});
        server.start();
    }
    raw_client idle_client()
    {
        auto c = connect(server);
        c.go("disk");
        return c;
    }
    nbd::server<nbd::unix_transport, nbd::mem_backend, Policy, end_recorder> server;
};

/// The calling thread has another user while this exists; the process is root's.
struct as_user {
    explicit as_user(::uid_t user) { ::syscall(SYS_setresuid, -1, user, -1); }
    as_user(const as_user&) = delete;
    as_user& operator=(const as_user&) = delete;
    ~as_user() { ::syscall(SYS_setresuid, -1, 0, -1); }
};

nbd::settings few_places(std::size_t most, std::size_t per_peer, std::chrono::milliseconds grace)
{
    nbd::settings limits;
    limits.max_connections = most;
    limits.places_per_peer = per_peer;
    limits.evict_idle_after = grace;
    return limits;
}

}  // namespace

TEMPLATE_TEST_CASE("places: a client that sends nothing after its handshake gives way to a new one",
                   "", nbd::per_client_threads, nbd::strand_pool)
{
    served<TestType> s{few_places(4, 0, std::chrono::milliseconds{500})};
    std::list<raw_client> idle;
    for (int i = 0; i < 4; ++i)
        idle.push_back(s.idle_client());
    auto next = s.idle_client();  // waits until one of them gives way
    CHECK(next.read(0, 512));
    const std::lock_guard lock{s.server.observer().kept->mutex};
    const auto& ends = s.server.observer().kept->ends;
    REQUIRE(ends.size() == 1);
    CHECK(ends[0].first < s.server.connections().back().id);
    CHECK(ends[0].second == nbd::errc::evicted);
}

TEMPLATE_TEST_CASE("places: idle clients stay if evict_idle_after is 0", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    served<TestType> s{few_places(2, 0, std::chrono::milliseconds{0})};
    auto first = s.idle_client();
    auto second = s.idle_client();
    auto waiting = connect(s.server);
    CHECK(first.read(0, 512));
    CHECK(second.read(0, 512));
    first.disconnect();
    waiting.go("disk");
    CHECK(second.read(0, 512));
}

TEMPLATE_TEST_CASE("places: a peer may have more than its share while there are places", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    served<TestType> s{few_places(4, 2, std::chrono::hours{1})};
    std::list<raw_client> clients;
    for (int i = 0; i < 4; ++i)
        CHECK(clients.emplace_back(s.idle_client()).read(0, 512));
    std::list<raw_client> waiting;
    for (int i = 0; i < 17; ++i)
        waiting.push_back(connect(s.server));
    CHECK(waiting.front().closed());
    CHECK(s.server.observer().refused(nbd::errc::too_many_connections));
    CHECK(s.server.observer().refused_peer() == s.server.connections().front().peer);
    for (auto& c : clients)
        CHECK(c.read(0, 512));
    clients.clear();
    waiting.back().go("disk");
    CHECK(waiting.back().read(0, 512));
}

TEMPLATE_TEST_CASE("places: a connection that gets no place is told to the observer, once", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    auto limits = few_places(1, 32, std::chrono::hours{1});
    limits.handshake_deadline = std::chrono::seconds{2};  // the first client takes a part of it
    served<TestType> s{limits};
    auto first = s.idle_client();
    auto waiting = connect(s.server);
    CHECK(waiting.closed());
    CHECK(s.server.observer().refused(nbd::errc::no_place));
    {
        const std::lock_guard lock{s.server.observer().kept->mutex};
        CHECK(s.server.observer().kept->refused.size() == 1);
    }
    CHECK(s.server.observer().refused_peer() == s.server.connections().front().peer);
    CHECK(first.read(0, 512));
}

TEMPLATE_TEST_CASE("places: a connection that waits when the server stops is told to the observer",
                   "", nbd::per_client_threads, nbd::strand_pool)
{
    std::atomic<int> admitted{0};
    nbd::server<nbd::unix_transport, nbd::mem_backend, TestType, end_recorder> server{
        {.listen = somewhere<nbd::unix_transport>(),
         .settings = few_places(1, 0, std::chrono::hours{1}),
         .admit = [&](const auto&) {
             admitted.fetch_add(1);
             admitted.notify_all();
             return true;
         }}};
    server.exports().add("disk", nbd::mem_backend{1 << 20});
    server.start();
    auto first = connect(server);
    first.go("disk");
    auto waiting = connect(server);
    admitted.wait(1);
    server.stop();
    CHECK(server.observer().refused(nbd::errc::server_stopped));
    CHECK(server.observer().kept->ends.size() == 1);
    CHECK(waiting.closed());
}

TEMPLATE_TEST_CASE("places: a peer that has its share replaces an idle connection of its own", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    served<TestType> s{few_places(2, 2, std::chrono::milliseconds{1})};
    auto first = s.idle_client();
    auto second = s.idle_client();
    CHECK(s.idle_client().read(0, 512));
    const std::lock_guard lock{s.server.observer().kept->mutex};
    REQUIRE_FALSE(s.server.observer().kept->ends.empty());
    CHECK(s.server.observer().kept->ends[0].second == nbd::errc::evicted);
}

TEMPLATE_TEST_CASE("places: another peer gets a place from one with more than its share", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    nbd::server<nbd::tcp_transport, nbd::mem_backend, TestType, end_recorder> server{
        {.listen = {.address = "127.0.0.1", .port = 0},
         .settings = few_places(4, 2, std::chrono::hours{1})}};
    server.exports().add("disk", nbd::mem_backend{1 << 20});
    server.start();
    std::list<raw_client> greedy;
    for (int i = 0; i < 4; ++i)
        greedy.emplace_back(connect(server)).go("disk");

    namespace asio = boost::asio;
    asio::io_context context;
    asio::ip::tcp::socket socket{context, {asio::ip::make_address("127.0.0.2"), 0}};
    socket.connect(server.local_endpoint());
    raw_client other{socket.release()};
    other.go("disk");
    CHECK(other.read(0, 512));
    CHECK(greedy.back().closed());
    CHECK(greedy.front().read(0, 512));
}

TEMPLATE_TEST_CASE("places: another user gets a place from one with more than its share", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    if (::geteuid() != 0)
        NBD_SKIP("only root can have the clients of two users");
    auto at = somewhere<nbd::unix_transport>();
    at.mode = 0666;
    nbd::server<nbd::unix_transport, nbd::mem_backend, TestType, end_recorder> server{
        {.listen = at, .settings = few_places(4, 2, std::chrono::hours{1})}};
    server.exports().add("disk", nbd::mem_backend{1 << 20});
    server.start();
    std::list<raw_client> greedy;
    for (int i = 0; i < 4; ++i)
        greedy.emplace_back(connect(server)).go("disk");
    const auto of_nobody = [&server] {
        const as_user nobody{65534};
        return connect(server);
    };
    auto other = of_nobody();
    other.go("disk");
    CHECK(other.read(0, 512));
    CHECK(server.connections().back().peer.ends_with("uid 65534"));
    CHECK(greedy.back().closed());
    CHECK(greedy.front().read(0, 512));
}

TEMPLATE_TEST_CASE(
    "places: a client that stops in the middle of its requests gives way to a new one", "",
    nbd::per_client_threads, nbd::strand_pool)
{
    const bool reads = GENERATE(true, false);
    auto limits = few_places(1, 0, std::chrono::milliseconds{0});
    limits.stall_grace = std::chrono::milliseconds{1};
    served<TestType> s{limits};
    auto stopped = s.idle_client();
    if (reads)
        for (int i = 0; i < 64; ++i)
            stopped.send_request({.length = 1 << 20});
    else
        stopped.send_request({.command = proto::command::write, .length = 1 << 20}, pattern(100));
    auto next = s.idle_client();  // waits until the other one gives way
    CHECK(next.read(0, 512));
    const std::lock_guard lock{s.server.observer().kept->mutex};
    REQUIRE(s.server.observer().kept->ends.size() == 1);
    CHECK(s.server.observer().kept->ends[0].second == nbd::errc::evicted);
}
