// SPDX-License-Identifier: MIT
// How a server stops: what its backend does x what its client does x policy x what ends the server.
// The long form, [.][stop-matrix], has all combinations; the short form has one end for each
// combination of the others.
#include "catch.hpp"
#include "grid/server_fixture.hpp"
#include "grid/stopping.hpp"
#include <nbd/server.hpp>

#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <sys/socket.h>

using namespace grid;
using namespace grid::stopping;

namespace {

/// Waits until `condition()`, at most a minute.
template <class Condition>
void await(const char* what, Condition condition)
{
    for (const auto latest = steady_clock::now() + std::chrono::minutes{1}; !condition();) {
        if (steady_clock::now() > latest)
            throw std::runtime_error{std::string{what} + ": not within a minute"};
        std::this_thread::sleep_for(milliseconds{1});
    }
}

void bring_into(raw_client& c, client state, situation& s)
{
    if (state == client::in_handshake)
        return c.greet();
    c.go("disk");
    if (state == client::idle)
        return;
    bytes requests;
    for (std::uint64_t i = 0; i < 64; ++i)
        raw_client::append(
            requests, {.cookie = i, .length = state == client::reads_nothing ? 128U << 10 : 512U});
    if (state == client::disc_and_close)
        raw_client::append(requests, {.command = proto::command::disc});
    c.send(requests);
    await("the first call", [&] { return s.begun > 0; });
    if (state == client::disc_and_close)
        c.close();
    else if (state == client::reset)
        c.reset();
    else if (state == client::half_closed)
        ::shutdown(c.fd(), SHUT_WR);
}

/// One combination. *Returns* how long the end took. *Errors*: exceptions.
template <class Backend, class Policy>
milliseconds ended(call what, client state, end by)
{
    using server_type = nbd::server<nbd::tcp_transport, Backend, Policy, watcher>;
    constexpr bool hosted = std::is_same_v<Policy, nbd::on_executor<>>;
    struct program {  // what it runs on, with a thread where that is the program's
        std::optional<asio::io_context> io{std::in_place, 1};
        std::thread runner;
        void join(bool stops)
        {
            if (stops && io)
                io->stop();
            if (runner.joinable())
                runner.join();
        }
        ~program() { join(true); }
    };
    situation s{.what = what};
    program on;
    typename server_type::options o{.listen = somewhere<nbd::tcp_transport>(),
                                    .settings = {.stop_grace = grace},
                                    .policy =
                                        [&] {
                                            if constexpr (hosted)
                                                return Policy{on.io->get_executor()};
                                            else if constexpr (Policy::blocking)
                                                return Policy{};
                                            else
                                                return Policy{2};
                                        }(),
                                    .observer = watcher{&s}};
    auto server = std::make_unique<server_type>(std::move(o));
    server->exports().emplace("disk", {}, s);
    server->start();
    if constexpr (hosted)
        on.runner = std::thread{[&io = *on.io] { io.run(); }};
    auto c = connect(*server);
    bring_into(c, state, s);

    std::optional<raw_client> next;
    auto before = steady_clock::now();
    switch (by) {
    case end::stop:
        server->stop();
        server->wait();
        break;
    case end::destructor:
        server.reset();
        break;
    case end::stop_in_a_callback:
        s.stop = [&] {
            before = steady_clock::now();
            server->stop();
        };
        s.stops_at_connect = true;
        next.emplace(connect(*server));
        server->wait();
        break;
    case end::async_stop_elsewhere:
        s.stop = [&] {
            before = steady_clock::now();
            server->async_stop(asio::detached);
        };
        next.emplace(connect(*server));
        next->go("disk");
        s.stops_elsewhere = true;
        try {
            next->send_request({.length = 512});
        } catch (const std::system_error&) {  // a call for the other client was faster
        }
        server->wait();
        break;
    case end::stopped_context:
        on.join(true);
        server.reset();
        s.elsewhere.join();  // nothing may post to the context any more
        on.io.reset();
        break;
    }
    if (hosted && by != end::stopped_context) {
        await("the last at_disconnect", [&] { return s.departed == s.connected; });
        on.join(what == call::leaves_a_timer);  // otherwise the context runs out of work
    }
    const auto took = std::chrono::duration_cast<milliseconds>(steady_clock::now() - before);
    if (s.departed != s.connected)
        throw std::runtime_error{std::to_string(s.departed) + " times at_disconnect, "
                                 + std::to_string(s.connected) + " times at_connect"};
    if (c.fd() >= 0 && !c.closed(64U << 20))
        throw std::runtime_error{"the connection was not closed"};
    return took;
}

struct cell {
    std::string name;
    std::function<milliseconds()> run;
    std::atomic<bool> begun{false};
    std::atomic<bool> over{false};
    milliseconds took{0};
    std::string error;
};
using cells = std::vector<std::unique_ptr<cell>>;

template <class Backend, class Policy>
void add(cells& all, const std::string& name, std::initializer_list<call> calls,
         std::initializer_list<end> ends, bool every)
{
    std::size_t turn = 0;
    for (const call what : calls) {
        for (std::size_t state = 0; state < client_names.size(); ++state) {
            ++turn;
            for (const end by : ends) {
                if (!every && by != std::data(ends)[turn % ends.size()])
                    continue;
                auto& c = all.emplace_back(std::make_unique<cell>());
                c->name = name + ", " + call_names[static_cast<std::size_t>(what)] + ", "
                    + client_names[state] + ", " + end_names[static_cast<std::size_t>(by)];
                c->run = [=] {
                    return ended<Backend, Policy>(what, static_cast<client>(state), by);
                };
            }
        }
    }
}
template <class Policy>
void add_policy(cells& all, const std::string& name, std::initializer_list<end> ends, bool every)
{
    add<awaited_disk, Policy>(all, name + ", awaited",
                              {call::answers, call::waits, call::waits_for_cancellation,
                               call::ignores_cancellation, call::disables_cancellation,
                               call::throws, call::completes_elsewhere, call::leaves_a_timer},
                              ends, every);
    add<awaited_disk, Policy>(all, name + ", awaited", {call::completes_elsewhere},
                              {end::async_stop_elsewhere}, every);
    add<immediate_disk, Policy>(all, name + ", plain", {call::answers, call::throws, call::blocks},
                                ends, every);
}

/// Runs the combinations, several at a time. A process that hangs says where, and ends.
void run(cells& all)
{
    std::atomic<std::size_t> next{0};
    std::vector<std::jthread> threads;
    for (int i = 0; i < 24; ++i) {
        threads.emplace_back([&] {
            for (auto at = next++; at < all.size(); at = next++) {
                auto& c = *all[at];
                c.begun = true;
                try {
                    c.took = c.run();
                } catch (const std::exception& e) {
                    c.error = e.what();
                }
                c.over = true;
            }
        });
    }
    const auto latest = steady_clock::now() + std::chrono::minutes{4};
    const auto running = [](const auto& c) { return !c->over; };
    while (std::any_of(all.begin(), all.end(), running)) {
        std::this_thread::sleep_for(milliseconds{5});
        if (steady_clock::now() < latest)
            continue;
        for (const auto& c : all)
            if (c->begun && !c->over)
                std::cerr << "does not end: " << c->name << '\n';
        std::abort();
    }
}

void check_matrix(bool every)
{
    cells all;
    const auto own = {end::stop, end::destructor, end::stop_in_a_callback};
    add_policy<nbd::per_client_threads>(all, "per_client_threads", own, every);
    add_policy<nbd::strand_pool>(all, "strand_pool", own, every);
    add_policy<nbd::on_executor<>>(
        all, "on_executor",
        {end::stop, end::destructor, end::stop_in_a_callback, end::stopped_context}, every);
    run(all);
    const cell* slowest = all.front().get();
    for (const auto& c : all) {
        INFO(c->name);
        CHECK(c->error == "");
        CHECK(c->took < std::chrono::seconds{30});
        if (c->took > slowest->took)
            slowest = c.get();
    }
    std::cout << all.size() << " combinations; the slowest end took " << slowest->took.count()
              << " ms: " << slowest->name << std::endl;
}

}  // namespace

TEST_CASE("stop: each backend with each client on each policy")
{
    check_matrix(false);
}
TEST_CASE("stop: the same with each way to end the server", "[.][stop-matrix]")
{
    check_matrix(true);
}
