// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "grid/server_fixture.hpp"
#include "support/sanitizers.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include <sys/resource.h>
#include <unistd.h>

namespace {

using namespace grid;
using proto::command;
using proto::error_value;
using proto::option;
using proto::option_reply;
using std::chrono::steady_clock;

template <class P>
using unix_server = nbd::server<nbd::unix_transport, nbd::mem_backend, P>;
template <class P>
using tcp_server = nbd::server<nbd::tcp_transport, nbd::mem_backend, P>;

constexpr std::uint64_t disk_size = 64U << 20;

/// Records why clients were disconnected, and lets a test wait for that.
struct farewells {
    struct book {
        std::mutex mutex;
        std::condition_variable more;
        std::vector<std::error_code> reasons;
        std::atomic<int> connected{0};

        std::error_code next()
        {
            std::unique_lock lock{mutex};
            REQUIRE(
                more.wait_for(lock, std::chrono::seconds{20}, [&] { return !reasons.empty(); }));
            const auto first = reasons.front();
            reasons.erase(reasons.begin());
            return first;
        }
    };
    std::shared_ptr<book> kept = std::make_shared<book>();

    void at_connect(const nbd::client&) { ++kept->connected; }
    void at_disconnect(const nbd::client&, std::error_code why)
    {
        const std::lock_guard lock{kept->mutex};
        kept->reasons.push_back(why);
        kept->more.notify_all();
    }
};

void send_reads(raw_client& client, int count, std::uint32_t length)
{
    bytes batch;
    for (int i = 0; i < count; ++i)
        raw_client::append(batch, {.length = length});
    client.send(batch);
}

}  // namespace

TEMPLATE_TEST_CASE("L01: stop ends clients at every stage, in bounded time", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    tcp_server<TestType> server{somewhere<nbd::tcp_transport>(), impatient()};
    server.exports().emplace("disk", {}, disk_size);
    server.start();

    std::vector<raw_client> clients;
    clients.push_back(connect(server));  // sends nothing
    clients.push_back(connect(server));
    clients.back().greet();  // between options
    clients.push_back(connect(server));
    clients.back().greet();
    clients.back().send(pattern(7));  // in the middle of one
    clients.push_back(connect(server));
    clients.back().go("disk");  // idle
    clients.push_back(connect(server));
    clients.back().go("disk");
    clients.back().send_request({.command = command::write, .length = 1 << 20}, pattern(1000));
    clients.push_back(connect(server));
    clients.back().go("disk");
    send_reads(clients.back(), 200, 1 << 20);  // receives no reply

    const auto before = steady_clock::now();
    server.stop();
    CHECK(steady_clock::now() - before < std::chrono::seconds{5});
    for (auto& client : clients)
        CHECK(client.closed(300U << 20));
    server.stop();  // L05: a second stop() has no effect
    server.wait();
    CHECK_THROWS(connect(server));
}

TEMPLATE_TEST_CASE("P88: requests that were sent before a stop are answered", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    unix_server<TestType> server{somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {}, disk_size);
    server.start();
    auto client = connect(server);
    client.go("disk");
    send_reads(client, 100, 512);
    const std::jthread stopping{[&] { server.stop(); }};
    int served = 0;
    for (int i = 0; i < 100; ++i) {
        const auto reply = client.receive_reply();
        if (reply.error == error_value::none) {
            std::ignore = client.receive(512);
            ++served;
        } else {
            CHECK(reply.error == error_value::eshutdown);
        }
    }
    CHECK(client.closed(1));
}

TEST_CASE("L10: start reports what is wrong, and leaves nothing half started")
{
    tcp_server<nbd::strand_pool> first{{.port = 0}};
    first.start();
    std::error_code error;
    first.start(error);
    CHECK(error == nbd::errc::already_started);

    tcp_server<nbd::per_client_threads> second{{.port = first.local_endpoint().port()}};
    second.start(error);
    CHECK(error == std::errc::address_in_use);
    CHECK_THROWS_AS(second.start(), std::system_error);
    CHECK_NOTHROW(connect(first));

    unix_server<nbd::per_client_threads> long_path{{.path = std::string(200, 'x')}};
    long_path.start(error);
    CHECK(error == nbd::errc::path_too_long);

    const auto at = somewhere<nbd::unix_transport>();
    std::ofstream{at.path} << "a file";
    unix_server<nbd::per_client_threads> on_file{at};
    on_file.start(error);
    CHECK(error == nbd::errc::not_a_socket);
    CHECK(std::filesystem::remove(at.path));

    unix_server<nbd::per_client_threads> nowhere{{.path = "/nonexistent/socket"}};
    nowhere.start(error);
    CHECK(error == std::errc::no_such_file_or_directory);
}

TEMPLATE_TEST_CASE("L10: without descriptors start fails, and leaves nothing behind", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
#if NBD_TEST_ASAN
    NBD_SKIP("UndefinedBehaviorSanitizer needs descriptors of its own to look at an object");
#endif
    ::rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
    const int next_free = ::dup(0);
    ::close(next_free);
    int failures = 0;
    for (::rlim_t spare = 0; spare < 16; ++spare) {
        const auto at = somewhere<nbd::unix_transport>();
        std::optional<unix_server<TestType>> server;
        std::error_code error;
        ::rlimit few = before;
        few.rlim_cur = static_cast<::rlim_t>(next_free) + spare;
        REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
        try {
            server.emplace(at);
        } catch (const std::exception&) {  // the constructor has failed
        }
        if (server)
            CHECK_NOTHROW(server->start(error));
        REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
        if (!server || error) {
            ++failures;
            CHECK_FALSE(std::filesystem::exists(at.path));
        } else {
            CHECK_NOTHROW(connect(*server));
        }
    }
    CHECK(failures > 3);
    CHECK(failures < 16);
}

TEST_CASE("L11: the socket file has its mode, and is removed with the server")
{
    auto at = somewhere<nbd::unix_transport>();
    at.mode = 0640;
    {
        unix_server<nbd::strand_pool> server{at};
        server.start();
        CHECK(std::filesystem::status(at.path).permissions() == std::filesystem::perms{0640});
        std::error_code error;
        unix_server<nbd::strand_pool> rival{at};
        rival.start(error);
        CHECK(error == std::errc::address_in_use);
        CHECK(std::filesystem::exists(at.path));
    }
    CHECK_FALSE(std::filesystem::exists(at.path));
}

TEMPLATE_TEST_CASE("L04: start and stop while clients connect and disconnect", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    const auto at = somewhere<nbd::unix_transport>();
    std::atomic<int> listed{0};
    const std::jthread lister{[&](const std::stop_token& enough) {
        const boost::asio::local::stream_protocol::endpoint endpoint{at.path};
        while (!enough.stop_requested()) {
            try {
                raw_client client{endpoint};
                client.greet();
                std::ignore = client.ask(option::list);
                ++listed;
            } catch (const std::exception&) {  // no server at the moment
            }
        }
    }};
    for (int round = 0; round < 100; ++round) {
        unix_server<TestType> server{at};
        server.exports().emplace("disk", {}, disk_size);
        server.start();
        auto client = connect(server);
        client.go("disk");
        CHECK(client.read(0, 512));
        if (round % 2 == 0)
            server.stop();
    }
    CHECK(listed > 0);
}

TEMPLATE_TEST_CASE(
    "C13, N-05: a client over the limit waits, and every kind of disconnect frees a place", "",
    nbd::per_client_threads, nbd::strand_pool)
{
    nbd::settings limits;
    limits.max_connections = 1;
    tcp_server<TestType> server{somewhere<nbd::tcp_transport>(), limits};
    server.exports().emplace("disk", {}, disk_size);
    server.start();
    for (int round = 0; round < 60; ++round) {
        auto client = connect(server);
        auto next = connect(server);  // waits in the backlog
        client.go("disk");
        CHECK(client.read(0, 512));
        switch (round % 5) {
        case 0:
            client.disconnect();
            break;
        case 1:
            client.close();
            break;
        case 2:
            client.reset();
            break;
        case 3:
            client.send(pattern(28));
            break;
        default:
            client.send_request({.command = command::write, .length = 5000});
            client.close();
        }
        next.go("disk");
        CHECK(next.read(0, 512));
    }
}

TEMPLATE_TEST_CASE("C14: silent clients give way to a client that negotiates", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    nbd::settings limits;
    limits.max_connections = 4;
    nbd::server<nbd::unix_transport, nbd::mem_backend, TestType, farewells> server{
        somewhere<nbd::unix_transport>(), limits};
    server.exports().emplace("disk", {}, disk_size);
    server.start();
    auto busy = connect(server);
    busy.go("disk");
    std::vector<raw_client> silent;
    for (int i = 0; i < 8; ++i)
        silent.push_back(connect(server));
    auto good = connect(server);
    good.go("disk");
    CHECK(good.read(0, 512));
    CHECK(server.observer().kept->next() == nbd::errc::evicted);
    CHECK(busy.read(0, 512));
}

TEMPLATE_TEST_CASE("C03, R02, R12, S01: each wait for a client has its limit", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    nbd::server<nbd::tcp_transport, nbd::mem_backend, TestType, farewells> server{
        somewhere<nbd::tcp_transport>(), impatient()};
    server.exports().emplace("disk", {}, disk_size);
    server.start();
    auto idle = connect(server);
    idle.go("disk");
    {
        auto silent = connect(server);
        CHECK(server.observer().kept->next() == nbd::errc::handshake_timeout);
        auto slow = connect(server);  // C12: the deadline counts from accept
        slow.greet();
        slow.send(std::as_bytes(std::span{"IHAVE", 5}));
        CHECK(server.observer().kept->next() == nbd::errc::handshake_timeout);
    }
    {
        auto half_request = connect(server);
        half_request.go("disk");
        bytes request;
        raw_client::append(request, {.length = 512});
        half_request.send(std::span{request}.first(10));
        CHECK(server.observer().kept->next() == nbd::errc::progress_timeout);
        CHECK(half_request.closed(1));
        auto half_payload = connect(server);
        half_payload.go("disk");
        half_payload.send_request({.command = command::write, .length = 1 << 20}, pattern(99));
        CHECK(server.observer().kept->next() == nbd::errc::progress_timeout);
    }
    {
        auto deaf = connect(server);
        deaf.go("disk");
        send_reads(deaf, 200, 1 << 20);
        CHECK(server.observer().kept->next() == nbd::errc::send_timeout);
    }
    CHECK(idle.read(0, 512));  // S14: an idle client stays connected
    idle.disconnect();
    CHECK_FALSE(server.observer().kept->next());
}

TEMPLATE_TEST_CASE("S01: a TCP client whose window stays closed is disconnected after user_timeout",
                   "", nbd::per_client_threads, nbd::strand_pool)
{
    // No limit of nbd::settings: a client that takes its replies slowly is not meant.
    nbd::server<nbd::tcp_transport, nbd::mem_backend, TestType, farewells> server{
        {.port = 0, .user_timeout = std::chrono::milliseconds{1'000}}};
    server.exports().emplace("disk", {}, disk_size);
    server.start();
    auto good = connect(server);
    good.go("disk");
    auto closed = connect(server);
    closed.go("disk");
    const auto begun = steady_clock::now();
    send_reads(closed, 200, 1 << 20);
    CHECK(server.observer().kept->next() == std::errc::timed_out);
    CHECK(steady_clock::now() - begun >= std::chrono::milliseconds{900});
    CHECK(good.read(0, 512));
}

TEMPLATE_TEST_CASE("L07: an export is removed while it is in use, and another one gets its name",
                   "", nbd::per_client_threads, nbd::strand_pool)
{
    unix_server<TestType> server{somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {}, disk_size);
    server.start();
    auto old = connect(server);
    old.go("disk");
    CHECK(server.exports().remove("disk"));
    CHECK_FALSE(server.exports().remove("disk"));
    CHECK_FALSE(old.read(0, 512));
    CHECK(old.write(0, pattern(100'000)) == error_value::eshutdown);
    server.exports().emplace("disk", {}, 2 * disk_size);
    auto fresh = connect(server);
    CHECK(fresh.go("disk").size == 2 * disk_size);
    CHECK(fresh.read(2 * disk_size - 1, 1));
    CHECK(old.request(command::flush, 0, 0) == error_value::eshutdown);
}

TEST_CASE("Two servers share their exports")
{
    using server_type = unix_server<nbd::per_client_threads>;
    const auto shared = std::make_shared<server_type::export_set_type>();
    shared->emplace("disk", {}, disk_size);
    server_type on_unix{{.listen = somewhere<nbd::unix_transport>(), .exports = shared}};
    tcp_server<nbd::strand_pool> on_tcp{
        {.listen = somewhere<nbd::tcp_transport>(), .exports = shared}};
    on_unix.start();
    on_tcp.start();
    auto one = connect(on_unix);
    one.go("disk");
    auto other = connect(on_tcp);
    other.go("disk");
    const auto data = pattern(4096);
    CHECK(one.write(8192, data) == error_value::none);
    CHECK(other.read(8192, 4096) == data);
}

namespace {

/// Calls stop() of its own server in read().
struct self_stopping {
    std::shared_ptr<std::promise<void>> asked = std::make_shared<std::promise<void>>();
    std::function<void()> stop;
    [[nodiscard]] std::uint64_t size() const { return 512; }
    void read(std::uint64_t, std::span<std::byte>)
    {
        stop();
        asked->set_value();
    }
};

}  // namespace

TEMPLATE_TEST_CASE("L05: a backend may stop its own server", "", nbd::per_client_threads,
                   nbd::strand_pool)
{
    nbd::server<nbd::unix_transport, self_stopping, TestType> server{
        somewhere<nbd::unix_transport>()};
    self_stopping disk;
    disk.stop = [&] { server.stop(); };
    server.exports().add("disk", disk);
    server.start();
    auto client = connect(server);
    client.go("disk");
    CHECK(client.read(0, 512));
    server.wait();
    CHECK(client.closed(1));
}

TEST_CASE("The destructor stops a running server, and a server may be destroyed without a start")
{
    auto client = [] {
        tcp_server<nbd::per_client_threads> server{somewhere<nbd::tcp_transport>()};
        server.exports().emplace("disk", {}, disk_size);
        server.start();
        auto c = connect(server);
        c.go("disk");
        return c;
    }();
    CHECK(client.closed(1));
    unix_server<nbd::strand_pool> idle{somewhere<nbd::unix_transport>()};
    idle.stop();
}
