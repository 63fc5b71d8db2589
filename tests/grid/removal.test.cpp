// SPDX-License-Identifier: MIT
// Removal of an export with its clients: of every server that shares the set, whatever they do.
#include "grid/waiting.hpp"

#include <boost/asio/io_context.hpp>

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>

namespace {

using namespace grid;
using namespace std::chrono_literals;
using steady = std::chrono::steady_clock;

/// Notes why each client was disconnected.
struct reasons {
    struct shared {
        switchboard board;
        std::map<std::string, std::vector<std::error_code>> by_export;
    };
    shared* to = nullptr;
    void at_disconnect(const nbd::client& who, std::error_code why)
    {
        const std::lock_guard lock{to->board.mutex};
        to->by_export[who.export_name].push_back(why);
        ++to->board.departed;
        to->board.changed.notify_all();
    }
};

template <class Backend, class Policy>
struct serving {
    static constexpr bool hosted = std::is_same_v<Policy, nbd::on_executor<>>;

    explicit serving(std::shared_ptr<nbd::export_set<Backend>> set, reasons::shared& to)
        : server{{.listen = somewhere<nbd::unix_transport>(),
                  .exports = std::move(set),
                  .policy = made(),
                  .observer = {&to}}}
    {
        server.start();
        if constexpr (hosted)
            thread = std::thread{[this] { io.run(); }};
    }
    ~serving()
    {
        server.stop();
        if (thread.joinable())
            thread.join();
    }
    [[nodiscard]] Policy made()
    {
        if constexpr (hosted)
            return Policy{io};
        else
            return Policy{};
    }

    boost::asio::io_context io;
    nbd::server<nbd::unix_transport, Backend, Policy, reasons> server;
    std::thread thread;
};

/// Servers of all policies with one set of exports, "disk" and "other".
template <class Backend>
struct all_policies {
    reasons::shared seen;
    std::shared_ptr<nbd::export_set<Backend>> exports =
        std::make_shared<nbd::export_set<Backend>>();
    serving<Backend, nbd::per_client_threads> threads{exports, seen};
    serving<Backend, nbd::strand_pool> pool{exports, seen};
    serving<Backend, nbd::on_executor<>> hosted{exports, seen};

    all_policies()
    {
        for (const auto* const name : {"disk", "other"}) {
            if constexpr (std::is_same_v<Backend, awaited>)
                exports->add(name, awaited{seen.board});
            else
                exports->add(name, nbd::mem_backend{1 << 20});
        }
    }
    ~all_policies() { seen.board.open(4096); }
    [[nodiscard]] std::vector<raw_client> clients(std::string_view name)
    {
        std::vector<raw_client> all;
        all.push_back(connect(threads.server));
        all.push_back(connect(pool.server));
        all.push_back(connect(hosted.server));
        for (auto& c : all)
            c.go(name);
        return all;
    }
    [[nodiscard]] std::vector<std::error_code> ends(const std::string& name)
    {
        const std::lock_guard lock{seen.board.mutex};
        return seen.by_export[name];
    }
};

constexpr auto removed = nbd::errc::export_removed;

}  // namespace

TEMPLATE_TEST_CASE("removal: idle clients are disconnected at once, on every server of the set", "",
                   nbd::mem_backend, awaited)
{
    all_policies<TestType> all;
    auto clients = all.clients("disk");
    auto others = all.clients("other");
    CHECK(all.exports->remove("disk", {.clients = nbd::disconnect_after{}}));
    for (auto& c : clients)
        CHECK(c.closed());
    REQUIRE(all.seen.board.await([&] { return all.seen.board.departed == 3; }));
    CHECK(all.ends("disk") == std::vector<std::error_code>(3, removed));
    for (auto& c : others)
        CHECK(c.read(0, 512));
}

TEST_CASE("removal: after a grace, in which requests get ESHUTDOWN")
{
    all_policies<nbd::mem_backend> all;
    auto clients = all.clients("disk");
    const auto begun = steady::now();
    CHECK(all.exports->remove("disk", {.clients = nbd::disconnect_after{1500ms}}));
    for (auto& c : clients)
        CHECK(c.request(command::read, 0, 512) == error_value::eshutdown);
    const bool in_time = steady::now() - begun < 1500ms;
    if (in_time)  // otherwise the machine is too slow for this
        CHECK(all.seen.board.departed == 0);
    for (auto& c : clients)
        CHECK(c.closed());
    CHECK(steady::now() - begun >= 1500ms);
    REQUIRE(all.seen.board.await([&] { return all.seen.board.departed == 3; }));
    CHECK(all.ends("disk") == std::vector<std::error_code>(3, removed));
}

TEST_CASE("removal: without a word about clients, they stay connected")
{
    all_policies<nbd::mem_backend> all;
    auto clients = all.clients("disk");
    CHECK(all.exports->remove("disk"));
    all.exports->add("more", nbd::mem_backend{1 << 20});
    auto more = all.clients("more");
    CHECK(all.exports->remove("more", {.clients = nbd::disconnect_after{}}));
    for (auto& c : more)
        CHECK(c.closed());  // so the servers have looked at all connections
    for (auto& c : clients)
        CHECK(c.request(command::read, 0, 512) == error_value::eshutdown);
    for (auto& c : clients)
        c.disconnect();
    REQUIRE(all.seen.board.await([&] { return all.seen.board.departed == 6; }));
    CHECK(all.ends("disk") == std::vector<std::error_code>(3));
}

TEST_CASE("removal: clients with requests in flight; their calls run to the end")
{
    all_policies<awaited> all;
    auto clients = all.clients("disk");
    all.seen.board.close({4096});
    for (auto& c : clients)
        c.send_request({.command = command::read, .cookie = 1, .offset = 4096, .length = 512});
    REQUIRE(all.seen.board.await([&] { return all.seen.board.inside == 3; }));
    CHECK(all.exports->remove("disk", {.clients = nbd::disconnect_after{}}));
    for (auto& c : clients)
        CHECK(c.closed());
    CHECK(all.seen.board.departed == 0);
    all.seen.board.open(4096);
    REQUIRE(all.seen.board.await([&] { return all.seen.board.departed == 3; }));
    CHECK(all.seen.board.cancelled == 0);
    CHECK(all.ends("disk") == std::vector<std::error_code>(3, removed));
}

TEST_CASE("removal: clients that opened the export before and after a change of its settings")
{
    all_policies<nbd::mem_backend> all;
    auto before = all.clients("disk");
    CHECK(all.exports->set_read_only("disk", true));
    auto after = all.clients("disk");
    const auto data = pattern(512);
    for (auto& c : before)
        CHECK(c.write(0, data) == error_value::none);
    for (auto& c : after) {
        CHECK(c.write(0, data) == error_value::eperm);
        CHECK(c.read(0, 512) == data);
    }
    CHECK(all.exports->remove("disk", {.clients = nbd::disconnect_after{}}));
    for (auto* const some : {&before, &after}) {
        for (auto& c : *some)
            CHECK(c.closed());
    }
}

TEST_CASE("removal: clients of an export that was looked up")
{
    all_policies<nbd::mem_backend> all;
    const auto snapshot = std::make_shared<nbd::mem_backend>(1 << 20);
    all.exports->on_lookup([&](std::string_view name, const nbd::client&) {
        return name == "monday" || name == "latest" ? snapshot : nullptr;
    });
    auto clients = all.clients("monday");
    auto others = all.clients("latest");
    CHECK(all.threads.server.connections().front().export_name == "monday");
    CHECK(all.exports->remove("monday", {.clients = nbd::disconnect_after{}}));
    for (auto& c : clients)
        CHECK(c.closed());
    for (auto& c : others)
        CHECK(c.read(0, 512));
    REQUIRE(all.seen.board.await([&] { return all.seen.board.departed == 3; }));
    CHECK(all.ends("monday") == std::vector<std::error_code>(3, removed));
}

TEST_CASE("removal: a client in its handshake can choose another export")
{
    all_policies<nbd::mem_backend> all;
    auto c = connect(all.pool.server);
    c.greet();
    CHECK(c.ask(proto::option::info, raw_client::info_data("disk")).back().type
          == proto::option_reply::ack);
    CHECK(all.exports->remove("disk", {.clients = nbd::disconnect_after{}}));
    CHECK(c.ask(proto::option::go, raw_client::info_data("disk")).back().type
          == proto::option_reply::err_unknown);
    CHECK(c.ask(proto::option::go, raw_client::info_data("other")).back().type
          == proto::option_reply::ack);
    CHECK(c.read(0, 512));
}
