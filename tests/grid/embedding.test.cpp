// SPDX-License-Identifier: MIT
// The server as an Asio object: completion tokens, cancellation, executors, sockets of the program,
// and the list of its connections.
#include "catch.hpp"
#include "grid/server_fixture.hpp"
#include <nbd/server.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/connect_pair.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>

#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstddef>
#include <future>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

using namespace grid;
namespace asio = boost::asio;
using boost::system::error_code;
using unix_protocol = asio::local::stream_protocol;

namespace {

using plain = nbd::on_executor<>;
template <class Policy>
using unix_server = nbd::server<nbd::unix_transport, nbd::mem_backend, Policy>;

template <class Server>
void add_disk(Server& server)
{
    server.exports().add("disk", nbd::mem_backend{64 << 20});
}
/// A client that requests 200 MiB and receives nothing.
template <class Server>
raw_client stalled_reader(Server& server)
{
    auto client = connect(server);
    client.go("disk");
    bytes batch;
    for (int i = 0; i < 200; ++i)
        raw_client::append(batch, {.length = 1 << 20});
    client.send(batch);
    return client;
}
nbd::settings patient()
{
    nbd::settings limits;
    limits.stop_grace = std::chrono::hours{1};
    limits.send_timeout = std::chrono::milliseconds{0};
    limits.least_transfer_rate = 0;
    return limits;
}

template <class T>
struct counting_allocator {
    using value_type = T;
    explicit counting_allocator(std::atomic<int>& l) : live{&l} {}
    template <class U>
    explicit(false) counting_allocator(const counting_allocator<U>& other) : live{other.live}
    {
    }
    T* allocate(std::size_t n)
    {
        *live += 1000;
        return std::allocator<T>{}.allocate(n);
    }
    void deallocate(T* p, std::size_t n)
    {
        --*live;
        std::allocator<T>{}.deallocate(p, n);
    }
    friend bool operator==(const counting_allocator&, const counting_allocator&) = default;
    std::atomic<int>* live;
};

}  // namespace

TEST_CASE("embedding: async_stop's handler may destroy the server, with clients connected")
{
    asio::io_context io;
    auto server =
        std::make_unique<unix_server<plain>>(io.get_executor(), somewhere<nbd::unix_transport>());
    add_disk(*server);
    server->start();
    bool completed = false;
    auto client = std::async(std::launch::async, [&, to = server->local_endpoint()] {
        raw_client c{to};
        c.go("disk");
        asio::post(io, [&] {
            server->async_stop([&](std::error_code error) {
                completed = !error;
                server.reset();
            });
            CHECK_FALSE(completed);  // not inside async_run
        });
        return c.closed();
    });
    io.run();
    CHECK(client.get());
    CHECK(completed);
}

TEST_CASE("embedding: a coroutine awaits the server, and another one stops it")
{
    asio::io_context io;
    unix_server<plain> server{io.get_executor(), somewhere<nbd::unix_transport>()};
    add_disk(server);
    std::vector<int> order;
    asio::co_spawn(
        io,
        [&]() -> asio::awaitable<void> {
            co_await server.async_run(asio::use_awaitable);
            order.push_back(2);
        },
        asio::detached);
    asio::co_spawn(
        io,
        [&]() -> asio::awaitable<void> {
            order.push_back(1);
            co_await server.async_stop(asio::use_awaitable);
            order.push_back(3);
        },
        asio::detached);
    io.run();
    CHECK(order.size() == 3);
    CHECK(order.front() == 1);
    server.wait();
}

TEMPLATE_TEST_CASE("embedding: futures, with a server on its own threads", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    unix_server<TestType> server{somewhere<nbd::unix_transport>()};
    add_disk(server);
    auto ran = server.async_run(asio::use_future);
    auto client = connect(server);
    client.go("disk");
    CHECK(client.read(0, 512));
    auto stopped = server.async_stop(asio::use_future);
    stopped.get();
    ran.get();
    CHECK(client.closed());
    server.async_stop(asio::use_future).get();  // again, after the end

    unix_server<TestType> never_started{somewhere<nbd::unix_transport>()};
    never_started.async_stop(asio::use_future).get();
    std::error_code error;
    never_started.start(error);
    CHECK(error == nbd::errc::server_stopped);
}

TEST_CASE("embedding: two threads may stop a server that was never started")
{
    for (int round = 0; round < 200; ++round) {
        unix_server<nbd::strand_pool> server{somewhere<nbd::unix_transport>()};
        std::barrier together{2};
        const auto stop = [&] {
            together.arrive_and_wait();
            server.async_stop(asio::use_future).get();
        };
        std::thread other{stop};
        stop();
        other.join();
    }
}

TEMPLATE_TEST_CASE("embedding: a handler on the server's thread may destroy the server", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    const bool used = GENERATE(true, false);
    auto server = std::make_unique<unix_server<TestType>>(somewhere<nbd::unix_transport>());
    add_disk(*server);
    server->start();
    std::optional<raw_client> client;
    if (used) {
        client.emplace(connect(*server));
        client->go("disk");
    }
    std::promise<void> destroyed;
    server->async_stop([&](error_code) {
        server.reset();
        destroyed.set_value();
    });
    destroyed.get_future().wait();
    CHECK((!client || client->closed()));
}

TEMPLATE_TEST_CASE("embedding: a handler that throws during the destructor ends nothing else", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    auto server = std::make_unique<unix_server<TestType>>(somewhere<nbd::unix_transport>());
    add_disk(*server);
    auto ran = server->async_run(asio::use_future);
    auto client = connect(*server);
    client.go("disk");
    std::atomic<int> thrown{0};
    for (int i = 0; i < 3; ++i)
        server->async_stop([&](error_code) {
            ++thrown;
            throw std::runtime_error{"of the program"};
        });
    server.reset();
    CHECK(thrown == 3);
    ran.get();
    CHECK(client.closed());
}

TEST_CASE("embedding: a deferred operation starts when it is invoked")
{
    asio::io_context io;
    unix_server<plain> server{io.get_executor(), somewhere<nbd::unix_transport>()};
    auto run = server.async_run(asio::deferred);
    io.run();
    CHECK_THROWS(connect(server));
    io.restart();
    std::optional<error_code> result;
    std::move(run)([&](error_code error) { result = error; });
    CHECK_NOTHROW(connect(server));
    server.stop();
    io.run();
    CHECK(result == error_code{});
}

TEST_CASE("embedding: async_run delivers the error of start(), not from the initiating call")
{
    const auto taken = somewhere<nbd::unix_transport>();
    unix_server<nbd::strand_pool> first{taken};
    first.start();
    asio::io_context io;
    unix_server<plain> second{io.get_executor(), taken};
    std::optional<error_code> result;
    second.async_run([&](error_code error) { result = error; });
    CHECK_FALSE(result);
    io.run();
    CHECK(result == std::error_code{std::make_error_code(std::errc::address_in_use)});
    unix_server<nbd::strand_pool> third{taken};
    CHECK_THROWS_AS(third.async_run(asio::use_future).get(), boost::system::system_error);
}

TEMPLATE_TEST_CASE("embedding: cancellation of async_run stops the server", "", plain,
                   nbd::per_client_threads, nbd::strand_pool)
{
    asio::io_context io;
    std::unique_ptr<unix_server<TestType>> server;
    if constexpr (std::is_same_v<TestType, plain>)
        server = std::make_unique<unix_server<TestType>>(io.get_executor(),
                                                         somewhere<nbd::unix_transport>());
    else
        server = std::make_unique<unix_server<TestType>>(somewhere<nbd::unix_transport>());
    add_disk(*server);
    asio::cancellation_signal signal;
    std::optional<error_code> result;
    server->async_run(asio::bind_executor(
        io, asio::bind_cancellation_slot(signal.slot(), [&](error_code e) { result = e; })));
    auto client = std::async(std::launch::async, [&] {
        auto c = connect(*server);
        c.go("disk");
        asio::post(io, [&] { signal.emit(asio::cancellation_type::terminal); });
        return c.closed();
    });
    io.run();
    CHECK(client.get());
    CHECK(result == asio::error::operation_aborted);
    signal.emit(asio::cancellation_type::terminal);  // after the end
}

TEMPLATE_TEST_CASE("embedding: cancellation of async_stop ends the grace period", "", plain,
                   nbd::per_client_threads, nbd::strand_pool)
{
    asio::io_context io;
    std::unique_ptr<unix_server<TestType>> server;
    if constexpr (std::is_same_v<TestType, plain>)
        server = std::make_unique<unix_server<TestType>>(
            io.get_executor(), somewhere<nbd::unix_transport>(), patient());
    else
        server =
            std::make_unique<unix_server<TestType>>(somewhere<nbd::unix_transport>(), patient());
    add_disk(*server);
    server->start();
    asio::cancellation_signal signal;
    std::optional<error_code> result;
    auto client = std::async(std::launch::async, [&] {
        auto c = stalled_reader(*server);
        asio::post(io, [&] {
            server->async_stop(asio::bind_executor(
                io,
                asio::bind_cancellation_slot(signal.slot(), [&](error_code e) { result = e; })));
            signal.emit(asio::cancellation_type::total);
        });
        return c;
    });
    auto work = asio::make_work_guard(io);
    while (!result)
        io.run_one();
    work.reset();
    CHECK(client.get().closed(300U << 20));
    CHECK(result == error_code{});
    io.run();
}

TEST_CASE("embedding: the handler's executor and allocator are used")
{
    std::atomic<int> live{0};
    asio::io_context other;
    unix_server<nbd::per_client_threads> server{somewhere<nbd::unix_transport>()};
    server.start();
    std::optional<std::thread::id> ran_by;
    server.async_stop(asio::bind_executor(
        other, asio::bind_allocator(counting_allocator<std::byte>{live}, [&](error_code) {
            ran_by = std::this_thread::get_id();
        })));
    other.run();
    CHECK(ran_by == std::this_thread::get_id());
    server.wait();
    CHECK(live > 0);
    CHECK(live % 999 == 0);  // every allocation was freed
}

TEST_CASE("embedding: get_executor is the program's executor, or the server's own")
{
    asio::io_context io;
    unix_server<plain> hosted{io.get_executor(), somewhere<nbd::unix_transport>()};
    CHECK(hosted.get_executor() == io.get_executor());
    using strand = asio::strand<asio::io_context::executor_type>;
    const auto given = asio::make_strand(io);
    unix_server<nbd::on_executor<strand>> stranded{given, somewhere<nbd::unix_transport>()};
    CHECK(stranded.get_executor() == given);
    unix_server<nbd::strand_pool> own{somewhere<nbd::unix_transport>()};
    own.start();
    std::promise<std::thread::id> ran_by;
    asio::post(own.get_executor(), [&] { ran_by.set_value(std::this_thread::get_id()); });
    CHECK(ran_by.get_future().get() != std::this_thread::get_id());
}

TEST_CASE("embedding: on any_io_executor")
{
    asio::io_context io;
    auto server = std::make_unique<unix_server<nbd::on_executor<asio::any_io_executor>>>(
        asio::any_io_executor{io.get_executor()}, somewhere<nbd::unix_transport>());
    add_disk(*server);
    server->start();
    auto client = std::async(std::launch::async, [&] {
        auto c = connect(*server);
        c.go("disk");
        const auto data = pattern(5000);
        const bool well =
            c.write(100, data) == proto::error_value::none && c.read(100, 5000) == data;
        asio::post(io, [&] { server.reset(); });
        return well && c.closed();
    });
    io.run();
    CHECK(client.get());
}

TEMPLATE_TEST_CASE("embedding: a listening socket of the program is served", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    asio::io_context io;
    const auto at = somewhere<nbd::unix_transport>();
    {
        unix_protocol::acceptor acceptor{io, unix_protocol::endpoint{at.path}};
        unix_server<TestType> server{{.path = "/not used"}};
        add_disk(server);
        server.start_on(acceptor.release());
        CHECK(server.local_endpoint().path() == at.path);
        auto c = connect(server);
        c.go("disk");
        CHECK(c.read(0, 512));
    }
    CHECK(::unlink(at.path.c_str()) == 0);  // the file belongs to the program

    std::error_code error;
    asio::ip::tcp::acceptor other_protocol{io, {asio::ip::make_address("127.0.0.1"), 0}};
    unix_server<TestType> second{{.path = "/not used"}};
    second.start_on(other_protocol.release(), error);
    CHECK(error == std::errc::wrong_protocol_type);
    unix_protocol::socket not_listening{io};
    not_listening.open();
    const int fd = not_listening.release();
    unix_server<TestType> third{{.path = "/not used"}};
    third.start_on(fd, error);
    CHECK(error == std::errc::invalid_argument);
    CHECK(::fcntl(fd, F_GETFD) == -1);  // closed
    CHECK_THROWS_AS(unix_server<TestType>{{.path = "/not used"}}.start_on(-1), std::system_error);
}

TEST_CASE("embedding: several listening sockets of the program are served")
{
    using policy = nbd::per_client_threads;
    asio::io_context io;
    const std::array paths{somewhere<nbd::unix_transport>().path,
                           somewhere<nbd::unix_transport>().path};
    const auto listening = [&](const std::string& path) {
        return unix_protocol::acceptor{io, unix_protocol::endpoint{path}}.release();
    };
    {
        unix_server<policy> server{{.path = "/not used"}};
        add_disk(server);
        server.start_on(std::vector{listening(paths[0]), listening(paths[1])});
        CHECK(server.uris("disk").size() == 2);
        for (const auto& path : paths) {
            raw_client c{unix_protocol::endpoint{path}};
            c.go("disk");
            CHECK(c.read(0, 512));
        }
    }
    for (const auto& path : paths)
        CHECK(::unlink(path.c_str()) == 0);

    // One that is none: none is served.
    const int good = listening(paths[0]);
    asio::ip::tcp::acceptor other_protocol{io, {asio::ip::make_address("127.0.0.1"), 0}};
    unix_server<policy> server{{.path = "/not used"}};
    std::error_code error;
    server.start_on(std::vector{good, other_protocol.release()}, error);
    CHECK(error == std::errc::wrong_protocol_type);
    CHECK(::fcntl(good, F_GETFD) == -1);  // closed
    CHECK(::unlink(paths[0].c_str()) == 0);
}

TEMPLATE_TEST_CASE("embedding: connected sockets of the program are served", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    std::array<int, 2> ends{};
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) == 0);
    raw_client client{ends[0]};
    unix_server<TestType> server{{.path = "/not used"}};
    add_disk(server);
    std::error_code error;
    server.adopt(::dup(ends[1]), error);
    CHECK(error == nbd::errc::not_running);
    server.start_without_listening();
    server.adopt(ends[1]);
    client.go("disk");
    CHECK(client.read(0, 512));
    server.adopt(-1, error);
    CHECK(error == std::errc::bad_file_descriptor);
    server.stop();
    CHECK(client.closed());
}

TEMPLATE_TEST_CASE("embedding: the program lists its connections, and closes one", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    unix_server<TestType> server{somewhere<nbd::unix_transport>()};
    CHECK(server.connections().empty());
    CHECK_FALSE(server.disconnect(1));
    add_disk(server);
    server.start();
    auto first = connect(server);
    first.go("disk");
    auto second = connect(server);
    second.greet();  // so that it is connected
    const auto seen = server.connections();
    REQUIRE(seen.size() == 2);
    CHECK(seen[0].id != 0);
    CHECK(seen[0].export_name == "disk");
    CHECK(seen[0].state == nbd::connection_state::transmission);
    CHECK(seen[0].peer
          == "pid " + std::to_string(::getpid()) + " uid " + std::to_string(::getuid()));
    CHECK(std::chrono::system_clock::now() - seen[0].since < std::chrono::minutes{1});
    CHECK(seen[1].id > seen[0].id);
    CHECK(seen[1].export_name.empty());
    CHECK(seen[1].state == nbd::connection_state::handshake);
    CHECK(server.disconnect(seen[0].id));
    CHECK(first.closed());
    CHECK(second.ask(proto::option::list).back().type == proto::option_reply::ack);
    CHECK_FALSE(server.disconnect(seen[1].id + 1));
}

TEMPLATE_TEST_CASE("embedding: the program is asked before a client is admitted", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    std::atomic<int> asked{0};
    std::atomic<int> local{0};
    nbd::server<nbd::tcp_transport, nbd::mem_backend, TestType> server{
        {.listen = {.port = 0},
         .admit = [&, calls = std::make_unique<int>(0)](const nbd::tcp_peer& peer) {
             local += peer.endpoint.address().is_loopback();
             asked = ++*calls;  // a function that cannot be copied
             switch (*calls) {
             case 1:
                 return false;
             case 2:
                 throw std::runtime_error{"is a refusal"};
             default:
                 return true;
             }
         }}};
    add_disk(server);
    server.start();
    CHECK(connect(server).closed());
    CHECK(connect(server).closed());
    auto admitted = connect(server);
    admitted.go("disk");
    CHECK(asked == 3);
    CHECK(local == 3);
    CHECK(server.connections().size() == 1);
}

TEST_CASE("embedding: the options of a server, complete and in part")
{
    using server_type = unix_server<nbd::strand_pool>;
    const auto at = somewhere<nbd::unix_transport>();
    auto exports = std::make_shared<server_type::export_set_type>();
    server_type all{{.listen = at,
                     .exports = exports,
                     .settings = {.max_connections = 5},
                     .policy = nbd::strand_pool{1}}};
    CHECK(&all.exports() == exports.get());
    server_type some{{.listen = {.path = at.path}}};
    server_type shortest{{.path = at.path}};
    shortest.start();
    CHECK(shortest.local_endpoint().path() == at.path);
    asio::io_context io;
    unix_server<plain> hosted{{.listen = at, .policy = plain{io.get_executor()}}};
    CHECK(hosted.get_executor() == io.get_executor());
}
