// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "grid/backends.hpp"
#include "grid/server_fixture.hpp"
#include <nbd/server.hpp>

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace {

template <class... Types>
constexpr bool none_is_polymorphic = (!std::is_polymorphic_v<Types> && ...);

using disk = nbd::mem_backend;

static_assert(
    none_is_polymorphic<nbd::unix_transport, nbd::tcp_transport, nbd::per_client_threads,
                        nbd::strand_pool, nbd::mem_backend, nbd::null_backend, grid::callback_disk,
                        nbd::silent, nbd::export_set<disk>, nbd::export_set<disk>::opened,
                        nbd::server<nbd::unix_transport, disk, nbd::per_client_threads>,
                        nbd::server<nbd::unix_transport, disk, nbd::strand_pool>,
                        nbd::server<nbd::tcp_transport, disk, nbd::per_client_threads>,
                        nbd::server<nbd::tcp_transport, disk, nbd::strand_pool>>);

static_assert(sizeof(nbd::server<nbd::tcp_transport, disk>) < 4096);

}  // namespace

TEST_CASE("P93, P94: clients can connect to the URI")
{
    nbd::server<nbd::tcp_transport, disk> tcp{grid::somewhere<nbd::tcp_transport>()};
    CHECK_THROWS_AS(tcp.uri(""), std::logic_error);
    tcp.start();
    const auto port = std::to_string(tcp.local_endpoint().port());
    CHECK(tcp.uri("") == "nbd://127.0.0.1:" + port + '/');
    CHECK(tcp.uri("/a disk?") == "nbd://127.0.0.1:" + port + "//a%20disk%3F");

    const auto at = grid::somewhere<nbd::unix_transport>();
    nbd::server<nbd::unix_transport, disk> local{at};
    local.start();
    CHECK(local.uri("x") == "nbd+unix:///x?socket=" + at.path);
}

TEST_CASE("The first export is the default until another one is chosen")
{
    nbd::server<nbd::unix_transport, disk> server{grid::somewhere<nbd::unix_transport>()};
    server.exports().emplace("z", {}, 512U);
    server.exports().emplace("a", {}, 1024U);
    server.start();
    CHECK(grid::connect(server).go("").size == 512);
    server.exports().set_default("a");
    CHECK(grid::connect(server).go("").size == 1024);
    server.exports().set_default(std::nullopt);
    CHECK_THROWS(grid::connect(server).go(""));
    server.exports().emplace("", {}, 2048U);
    CHECK(grid::connect(server).go("").size == 2048);
}

namespace {

/// Hears everything, and writes it down in short.
struct diary {
    std::shared_ptr<std::string> text = std::make_shared<std::string>();
    std::shared_ptr<std::mutex> mutex = std::make_shared<std::mutex>();
    std::shared_ptr<int> requests = std::make_shared<int>(0);

    void note(const std::string& what)
    {
        const std::lock_guard lock{*mutex};
        *text += what + ' ';
    }
    void at_connect(const nbd::client& c) { note("connect" + c.export_name); }
    void at_option(const nbd::client&, const nbd::protocol::option_header& o)
    {
        note("option" + std::to_string(static_cast<int>(o.option)));
    }
    void at_export_opened(const nbd::client&, std::string_view name,
                          const nbd::protocol::export_terms& t)
    {
        note("opened:" + std::string{name} + ":" + std::to_string(t.size));
    }
    int at_request(const nbd::client& c, const nbd::protocol::request& r)
    {
        note("request" + std::to_string(static_cast<int>(r.command)) + '@' + c.export_name);
        return ++*requests;
    }
    void at_reply(const nbd::client& c, const nbd::protocol::request&, nbd::protocol::error_value e,
                  int number)
    {
        note("reply" + std::to_string(static_cast<int>(e)) + '@' + c.export_name + '#'
             + std::to_string(number));
    }
    void at_option_error(const nbd::client&, const nbd::protocol::option_header&,
                         const nbd::failure&)
    {
        note("refused");
    }
    void at_error(const nbd::client&, const nbd::protocol::request& r, const nbd::failure&)
    {
        note("error" + std::to_string(static_cast<int>(r.command)));
    }
    void at_disconnect(const nbd::client&, std::error_code why)
    {
        note(why ? why.message() : "left");
    }
};

}  // namespace

TEMPLATE_TEST_CASE("An observer is notified of all events of a client, in order", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    const diary d;
    {
        nbd::server<nbd::unix_transport, disk, TestType, diary> server{
            grid::somewhere<nbd::unix_transport>(), {}, {}, d};
        server.exports().emplace("disk", {}, 4096U);
        server.start();
        auto client = grid::connect(server);
        client.greet();
        std::ignore = client.ask(grid::proto::option::info, grid::raw_client::info_data("other"));
        std::ignore = client.ask(grid::proto::option::go, grid::raw_client::info_data("disk"));
        CHECK(client.read(0, 4096));
        CHECK_FALSE(client.read(1, 4096));
        client.disconnect();
        CHECK(client.closed(1));
    }
    CHECK(*d.text
          == "connect option6 refused option7 opened:disk:4096 request0@disk reply0@disk#1 "
             "request0@disk reply22@disk#2 request2@disk left ");
}
