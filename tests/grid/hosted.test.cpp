// SPDX-License-Identifier: MIT
// A server on an io_context of the program: run by one thread, by several, or by none.
#include "catch.hpp"
#include "grid/server_fixture.hpp"
#include <nbd/server.hpp>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <future>
#include <list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <vector>

using namespace grid;
using proto::error_value;

namespace {

using plain = nbd::on_executor<>;
using stranded = nbd::on_executor<boost::asio::strand<boost::asio::io_context::executor_type>>;

template <class Policy>
using hosted_server = nbd::server<nbd::unix_transport, nbd::mem_backend, Policy>;

template <class Policy>
struct program {
    explicit program(std::size_t count)
    {
        server.exports().add("disk", nbd::mem_backend{1 << 20});
        server.start();
        for (std::size_t i = 0; i < count; ++i)
            threads.emplace_back([this] { io.run(); });
    }
    ~program()
    {
        for (auto& t : threads)
            t.join();
    }
    [[nodiscard]] typename Policy::executor_type executor()
    {
        if constexpr (Policy::is_strand)
            return boost::asio::make_strand(io);
        else
            return io.get_executor();
    }

    boost::asio::io_context io;
    hosted_server<Policy> server{executor(), somewhere<nbd::unix_transport>()};
    std::vector<std::thread> threads;
};

/// Returns success, because Catch2's assertions are for one thread.
bool use(raw_client c, std::uint64_t at)
{
    c.go("disk");
    for (unsigned i = 0; i < 20; ++i) {
        const auto data = pattern(5000, i);
        if (c.write(at, data) != error_value::none || c.read(at, 5000) != data)
            return false;
    }
    return true;
}

}  // namespace

TEST_CASE("hosted: clients are served by the thread that runs the program's context")
{
    program<plain> p{1};
    CHECK(use(connect(p.server), 0));
    std::list<std::future<bool>> clients;
    for (std::uint64_t i = 0; i < 4; ++i)
        clients.push_back(
            std::async(std::launch::async, [&, i] { return use(connect(p.server), i * 8192); }));
    for (auto& c : clients)
        CHECK(c.get());
    p.server.stop();
}

TEST_CASE("hosted: several threads run the context, and each client has a strand")
{
    program<stranded> p{3};
    std::list<std::future<bool>> clients;
    for (std::uint64_t i = 0; i < 8; ++i)
        clients.push_back(
            std::async(std::launch::async, [&, i] { return use(connect(p.server), i * 8192); }));
    for (auto& c : clients)
        CHECK(c.get());
    p.server.stop();
}

TEST_CASE(
    "hosted: stop() on the context returns at once, and run() ends when all clients have left")
{
    program<plain> p{1};
    auto c = connect(p.server);
    c.go("disk");
    boost::asio::post(p.io, [&] { p.server.stop(); });
    CHECK(c.closed());
    p.threads.front().join();  // the context has run out of work
    p.threads.clear();
    p.server.wait();
}

TEST_CASE("hosted: stop() and wait() run no handler of a context that another thread runs")
{
    std::atomic<bool> elsewhere{false};
    std::atomic<bool> over{false};
    std::thread::id runner;
    std::function<void()> look;
    program<plain> p{1};  // destroyed first: its handlers use the variables above
    raw_client c = connect(p.server);
    c.go("disk");
    runner = p.threads.front().get_id();
    look = [&] {
        if (std::this_thread::get_id() != runner)
            elsewhere = true;
        if (!over)
            boost::asio::post(p.io, look);
    };
    boost::asio::post(p.io, look);
    p.server.stop();
    p.server.wait();
    over = true;
    CHECK(c.closed());
    CHECK_FALSE(elsewhere);
}

TEST_CASE("hosted: a server that could not start leaves no handler on its context")
{
    const auto taken = somewhere<nbd::unix_transport>();
    boost::asio::io_context io;
    auto work = boost::asio::make_work_guard(io);
    nbd::server<nbd::unix_transport, nbd::mem_backend, nbd::per_client_threads> first{taken};
    first.start();
    {
        nbd::server<nbd::unix_transport, nbd::mem_backend, plain> second{io.get_executor(), taken};
        std::error_code error;
        second.start(error);
        CHECK(error == std::errc::address_in_use);
        nbd::server<nbd::unix_transport, nbd::mem_backend, plain> never_started{
            io.get_executor(), somewhere<nbd::unix_transport>()};
    }
    CHECK(io.poll() == 0);
}

TEMPLATE_TEST_CASE("hosted: start() leaves its accept loops to the executor", "", plain, stranded)
{
    program<TestType> p{0};
    CHECK(p.io.poll() == 1);  // the handler that begins to accept
    // Handlers of other threads may run before start() returns.
    boost::asio::io_context io;
    auto work = boost::asio::make_work_guard(io);
    std::vector<std::thread> threads(3);
    for (auto& t : threads)
        t = std::thread{[&io] { io.run(); }};
    for (int i = 0; i < 30; ++i) {
        const auto at = somewhere<nbd::unix_transport>();
        hosted_server<stranded> server{boost::asio::make_strand(io), at};
        auto client = std::async(std::launch::async, [&at] {
            for (int tries = 0; tries < 10'000; ++tries) {
                try {
                    raw_client c{boost::asio::local::stream_protocol::endpoint{at.path}};
                    c.greet();
                    return true;
                } catch (const std::system_error&) {  // it does not listen yet
                    std::this_thread::yield();
                }
            }
            return false;
        });
        server.start();
        CHECK(client.get());
    }
    work.reset();
    for (auto& t : threads)
        t.join();
}

TEST_CASE("hosted: destroying a server on a context that never ran closes all connections")
{
    std::list<raw_client> clients;
    {
        program<plain> p{0};
        for (int i = 0; i < 3; ++i)
            clients.push_back(connect(p.server));
    }
    for (auto& c : clients)
        CHECK(c.closed());
    program<stranded> never_used{0};
}

TEST_CASE("hosted: wait() runs no handler of the context, even while its thread is busy")
{
    program<plain> p{1};
    const auto runner = p.threads.front().get_id();
    std::promise<void> busy;
    std::promise<std::thread::id> ran_by;
    auto ran = ran_by.get_future();
    boost::asio::post(p.io, [&] {
        busy.set_value();
        // Another thread that ran the context would run the next handler now.
        CHECK(ran.wait_for(std::chrono::milliseconds{1500}) == std::future_status::timeout);
    });
    boost::asio::post(p.io, [&] { ran_by.set_value(std::this_thread::get_id()); });
    busy.get_future().wait();
    p.server.stop();
    p.server.wait();
    CHECK(ran.get() == runner);
}

TEST_CASE("hosted: the server is destroyed in a handler before any client connected")
{
    boost::asio::io_context io;
    auto server =
        std::make_unique<hosted_server<plain>>(io.get_executor(), somewhere<nbd::unix_transport>());
    server->start();
    boost::asio::post(io, [&] { server.reset(); });
    io.run();
    CHECK_FALSE(server);
}

TEST_CASE("hosted: the server is destroyed in a handler with clients connected")
{
    boost::asio::io_context io;
    auto server =
        std::make_unique<hosted_server<plain>>(io.get_executor(), somewhere<nbd::unix_transport>());
    server->exports().add("disk", nbd::mem_backend{1 << 20});
    server->start();
    auto client = std::async(std::launch::async, [&, to = server->local_endpoint()] {
        raw_client transmitting{to};
        raw_client silent{to};
        transmitting.go("disk");
        boost::asio::post(io, [&] { server.reset(); });
        return transmitting.closed() && silent.closed();
    });
    io.run();
    CHECK(client.get());
}

TEST_CASE("hosted: the destructor runs no handler of another object of the program")
{
    boost::asio::io_context io;
    bool ran = false;
    {
        hosted_server<plain> server{io.get_executor(), somewhere<nbd::unix_transport>()};
        server.start();
        boost::asio::post(io, [&] { ran = true; });
        io.stop();
    }
    CHECK_FALSE(ran);
    {
        hosted_server<plain> server{io.get_executor(), somewhere<nbd::unix_transport>()};
        server.start();
        boost::asio::post(io, [] { throw std::runtime_error{"of the program"}; });
        io.stop();
    }
    io.restart();
    CHECK_THROWS_WITH(io.run(), "of the program");
    io.run();
    CHECK(ran);
}

TEST_CASE("hosted: the context is stopped and the server destroyed while a handler runs")
{
    boost::asio::io_context io;
    std::optional<hosted_server<plain>> server{std::in_place, io.get_executor(),
                                               somewhere<nbd::unix_transport>()};
    server->exports().add("disk", nbd::mem_backend{1 << 20});
    server->start();
    std::thread runner{[&] { io.run(); }};
    auto client = connect(*server);
    client.go("disk");
    std::promise<void> busy;
    std::promise<void> go_on;
    std::atomic<bool> other_ran{false};
    boost::asio::post(io, [&] {
        busy.set_value();
        go_on.get_future().wait();
    });
    boost::asio::post(io, [&] { other_ran = true; });
    busy.get_future().wait();
    io.stop();
    server.reset();
    go_on.set_value();
    runner.join();
    CHECK(io.stopped());
    CHECK_FALSE(other_ran);
    io.restart();
    io.run();  // the clients' sessions end
    CHECK(other_ran);
    CHECK(client.closed());
}

TEST_CASE("hosted: the context is stopped and destroyed before the server")
{
    const auto at = somewhere<nbd::unix_transport>();
    std::optional<boost::asio::io_context> io{std::in_place};
    hosted_server<plain> server{io->get_executor(), at};
    server.exports().add("disk", nbd::mem_backend{1 << 20});
    server.start();
    raw_client silent = connect(server);
    auto transmitting = std::async(std::launch::async, [&] {
        auto c = connect(server);
        c.go("disk");
        io->stop();
        return c;
    });
    io->run();
    auto c = transmitting.get();
    io.reset();
    CHECK(c.closed());
    CHECK(silent.closed());
    CHECK_FALSE(std::filesystem::exists(at.path));
    server.stop();
    server.wait();
    CHECK(server.local_endpoint().path() == at.path);
}

TEST_CASE("hosted: the server is destroyed after its context was stopped, and the context after it")
{
    std::optional<boost::asio::io_context> io{std::in_place};
    std::optional<raw_client> c;
    {
        hosted_server<plain> server{io->get_executor(), somewhere<nbd::unix_transport>()};
        server.exports().add("disk", nbd::mem_backend{1 << 20});
        server.start();
        auto transmitting = std::async(std::launch::async, [&] {
            c.emplace(connect(server));
            c->go("disk");
            io->stop();
        });
        io->run();
        transmitting.get();
    }
    io.reset();
    CHECK(c->closed());
}
