// SPDX-License-Identifier: MIT
// An io_context of the program that is destroyed while clients of a server on it wait for
// something.
#include "catch.hpp"
#include "grid/waiting.hpp"
#include <nbd/server.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>

#include <memory>
#include <thread>
#include <vector>

using namespace grid;

namespace {

using plain = boost::asio::io_context::executor_type;
using strand = boost::asio::strand<plain>;

/// An awaited backend on the executor of its clients.
template <class Executor, bool InTurn, bool Cancellable = false>
struct disk : awaiting_disk<Executor> {
    static constexpr nbd::concurrency concurrency =
        InTurn ? nbd::concurrency::serialize_all : nbd::concurrency::parallel;
    static constexpr bool cancellable = Cancellable;
    using awaiting_disk<Executor>::awaiting_disk;
};

template <class Disk, class Executor>
struct hosted {
    using server_type =
        nbd::server<nbd::unix_transport, Disk, nbd::on_executor<Executor>, departures>;

    explicit hosted(const nbd::settings& limits = {})
    {
        typename server_type::options o{.listen = somewhere<nbd::unix_transport>(),
                                        .settings = limits,
                                        .policy = nbd::on_executor<Executor>{executor()},
                                        .observer = departures{&board}};
        server = std::make_unique<server_type>(std::move(o));
        server->exports().emplace("disk", {}, board);
        server->start();
    }
    [[nodiscard]] Executor executor()
    {
        if constexpr (std::is_same_v<Executor, plain>)
            return context->get_executor();
        else
            return boost::asio::make_strand(context->get_executor());
    }
    /// Runs the context on another thread while `f` runs.
    template <class F>
    void while_running(F f)
    {
        std::thread runner{[this] { context->run(); }};
        f();
        context->stop();
        runner.join();
        context->restart();
    }
    raw_client client()
    {
        auto c = connect(*server);
        c.go("disk");
        return c;
    }

    switchboard board;
    std::unique_ptr<boost::asio::io_context> context = std::make_unique<boost::asio::io_context>(1);
    std::unique_ptr<server_type> server;
};

}  // namespace

TEMPLATE_TEST_CASE("destroyed context: clients whose calls and requests wait are disconnected", "",
                   (hosted<disk<plain, true>, plain>), (hosted<disk<plain, false>, plain>),
                   (hosted<disk<plain, true, true>, plain>), (hosted<disk<strand, true>, strand>),
                   (hosted<disk<strand, false>, strand>))
{
    nbd::settings limits;
    limits.requests_in_flight = 2;
    TestType s{limits};
    s.board.close({0, 512});
    const bool killed = GENERATE(false, true);
    std::vector<raw_client> clients;
    s.while_running([&] {
        for (int i = 0; i < 2; ++i) {
            auto& c = clients.emplace_back(s.client());
            for (std::uint64_t at = 0; at < 5; ++at)  // more than may be in flight
                ask(c, command::read, at, at % 2 * 512, 512);
        }
        REQUIRE(s.board.await([&] { return s.board.inside != 0; }));
        if (killed)
            clients.pop_back();
        // Later than the other requests of the clients that are left.
        CHECK(connect(*s.server).receive(18).size() == 18);
    });
    s.context.reset();
    for (auto& c : clients)
        CHECK(c.closed());
    s.server.reset();
}

TEMPLATE_TEST_CASE("destroyed context: a client that waits for memory of another is disconnected",
                   "", (hosted<disk<plain, false>, plain>), (hosted<disk<strand, false>, strand>))
{
    nbd::settings limits;
    limits.server_memory = 1;  // raised to the least: one connection has working memory
    TestType s{limits};
    std::vector<raw_client> clients;
    s.while_running([&] {
        clients.push_back(connect(*s.server));
        CHECK(clients[0].receive(18).size() == 18);
        clients.push_back(connect(*s.server));
        while (s.server->connections().size() < 2)
            std::this_thread::yield();
    });
    s.context.reset();
    for (auto& c : clients)
        CHECK(c.closed());
}
