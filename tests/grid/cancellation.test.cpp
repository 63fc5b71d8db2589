// SPDX-License-Identifier: MIT
// What becomes of awaited calls when their client is killed: without the promise `cancellable` they
// run to their end, with it they are cancelled.
#include "catch.hpp"
#include "grid/program.hpp"
#include "grid/waiting.hpp"
#include <nbd/server.hpp>

#include <thread>
#include <vector>

using namespace grid;

namespace {

template <class Backend>
struct on_program {
    using backend = Backend;
    using policy = nbd::on_executor<>;
    static policy make()
    {
        static program one;
        return policy{one.context.get_executor()};
    }
};

/// Its WRITEs are not cancelled, by the means of Asio.
struct deaf_in_writes : cancelling<awaited> {
    using cancelling<awaited>::cancelling;
    awaitable<std::error_code> write(std::uint64_t, std::span<const std::byte>)
    {
        co_await boost::asio::this_coro::reset_cancellation_state(
            boost::asio::disable_cancellation());
        co_await boost::asio::this_coro::throw_if_cancelled(false);
        co_return std::error_code{};
    }
    awaitable<std::error_code> trim(std::uint64_t offset, std::uint64_t length)
    {
        return awaited::trim(offset, length);
    }
};

constexpr int rounds = 10;
constexpr int clients = 20;
constexpr int kills = rounds * clients;
constexpr int calls = 4;

/// Kills clients whose calls are under way, 20 at a time; `killed()` is called after they were.
template <class Served, class Killed>
void kill_clients(Served& s, Killed killed)
{
    for (int round = 1; round <= rounds; ++round) {
        std::vector<raw_client> going;
        for (int n = 0; n < clients; ++n) {
            auto& c = going.emplace_back(s.client());
            for (std::uint64_t i = 0; i < calls; ++i) {
                s.board.close({i * 512});
                ask(c, command::read, i, i * 512, 512);
            }
        }
        REQUIRE(s.board.await([&] { return s.board.inside == clients * calls; }));
        going.clear();
        killed();
        REQUIRE(s.board.await(
            [&] { return s.board.departed == round * clients && s.board.inside == 0; }));
    }
}
template <class Served>
void open_all(Served& s)
{
    for (std::uint64_t i = 0; i < calls; ++i)
        s.board.open(i * 512);
}

}  // namespace

TEMPLATE_TEST_CASE("cancellation: calls of killed clients run to their end", "",
                   (with<awaited, nbd::strand_pool>), (with<awaited, nbd::per_client_threads>),
                   (on_program<awaited>))
{
    served<TestType> s;
    kill_clients(s, [&] { open_all(s); });
    CHECK(s.board.cancelled == 0);
    CHECK(s.client().read(100'352, 512));
    s.server.stop();
    s.server.wait();
}

TEMPLATE_TEST_CASE("cancellation: calls of killed clients are cancelled where that is promised", "",
                   (with<cancelling<awaited>, nbd::strand_pool>),
                   (with<cancelling<awaited>, nbd::per_client_threads>),
                   (on_program<cancelling<awaited>>))
{
    served<TestType> s;
    kill_clients(s, [] {});
    CHECK(s.board.cancelled == kills * calls);
    open_all(s);
    auto c = s.client();
    CHECK(c.read(100'352, 512));
    c.close();
    s.server.stop();
    s.server.wait();
}

TEMPLATE_TEST_CASE("cancellation: stop waits for a call that is not cancellable", "",
                   (with<awaited, nbd::strand_pool>), (with<awaited, nbd::per_client_threads>))
{
    nbd::settings limits;
    limits.stop_grace = std::chrono::milliseconds{50};
    served<TestType> s{limits};
    auto c = s.client();
    s.board.close({0});
    ask(c, command::read, 0, 0, 512);
    REQUIRE(s.board.await([&] { return s.board.inside == 1; }));
    std::thread stopping{[&] { s.server.stop(); }};
    CHECK(c.closed());  // the grace is over, the call is not
    CHECK(s.board.await([&] { return s.board.inside == 1 && s.board.departed == 0; }));
    s.board.open(0);
    stopping.join();
    CHECK(s.board.inside == 0);
    CHECK(s.board.cancelled == 0);
}

TEMPLATE_TEST_CASE("cancellation: each call starts with the same cancellation state", "",
                   (with<deaf_in_writes, nbd::strand_pool>),
                   (with<deaf_in_writes, nbd::per_client_threads>), (on_program<deaf_in_writes>))
{
    served<TestType> s;
    auto c = s.client();
    for (int i = 0; i < 4; ++i)
        CHECK(c.write(0, pattern(512, 1)) == error_value::none);
    s.board.close({512});
    ask(c, command::read, 1, 512, 512);
    REQUIRE(s.board.await([&] { return s.board.inside == 1; }));
    c.close();
    CHECK(s.board.await([&] { return s.board.inside == 0 && s.board.departed == 1; }));
    CHECK(s.board.cancelled == 1);
}
