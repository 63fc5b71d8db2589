// SPDX-License-Identifier: MIT
// The program's function that decides what a client may do with an export.
#include "grid/waiting.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <future>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

namespace {

using namespace grid;
using nbd::client;
using nbd::errc;
using nbd::permission;
using proto::command;
using proto::option;
using proto::option_reply;
namespace allow = nbd::allow;
namespace transmission_flag = nbd::protocol::transmission_flag;

/// What the backends and the observer of one server have seen.
struct record {
    std::atomic<int> opens{0};
    std::mutex mutex;
    std::vector<nbd::failure> refusals{};
    std::vector<std::error_code> departures{};
    std::condition_variable changed;
};

struct disk {
    struct view {
        static constexpr auto concurrency = nbd::concurrency::parallel;
        [[nodiscard]] std::uint64_t size() const { return 1 << 20; }
        void read(std::uint64_t, std::span<std::byte> to) const
        {
            std::fill(to.begin(), to.end(), std::byte{7});
        }
        void write(std::uint64_t, std::span<const std::byte>) const {}
        void flush() const {}
        void trim(std::uint64_t, std::uint64_t) const {}
    };
    record* seen;
    view open(const client&)
    {
        ++seen->opens;
        return {};
    }
};

struct listens {
    record* seen;
    void at_option_error(const client&, const nbd::protocol::option_header&,
                         const nbd::failure& why)
    {
        const std::lock_guard lock{seen->mutex};
        seen->refusals.push_back(why);
    }
    void at_disconnect(const client&, std::error_code why)
    {
        const std::lock_guard lock{seen->mutex};
        seen->departures.push_back(why);
        seen->changed.notify_all();
    }
};

template <class Transport, class Policy>
struct place {
    using server_type = nbd::server<Transport, disk, Policy, listens>;

    explicit place(nbd::authorisation by, nbd::settings limits = {})
        : server{{.listen = somewhere<Transport>(),
                  .settings = std::move(limits),
                  .observer = {&seen},
                  .authorise = std::move(by)}}
    {
        for (const auto* const name : {"disk", "public", "secret"})
            server.exports().add(name, disk{&seen});
        server.start();
    }

    [[nodiscard]] raw_client greeted() const
    {
        auto c = connect(server);
        c.greet();
        return c;
    }
    /// Why the last option was refused.
    [[nodiscard]] nbd::failure refusal()
    {
        const std::lock_guard lock{seen.mutex};
        return seen.refusals.empty() ? nbd::failure{} : seen.refusals.back();
    }
    [[nodiscard]] std::error_code departure()
    {
        std::unique_lock lock{seen.mutex};
        seen.changed.wait_for(lock, std::chrono::seconds{20},
                              [&] { return !seen.departures.empty(); });
        return seen.departures.empty() ? std::error_code{} : seen.departures.back();
    }

    record seen;
    server_type server;
};

using local_place = place<nbd::unix_transport, nbd::per_client_threads>;
using remote_place = place<nbd::tcp_transport, nbd::strand_pool>;

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT with one query.
bytes meta_data(std::string_view name)
{
    constexpr std::string_view query = "base:";
    bytes data(4 + name.size() + 4 + 4 + query.size());
    proto::writer{data}
        .put(static_cast<std::uint32_t>(name.size()))
        .put_text(name)
        .put(std::uint32_t{1})
        .put(static_cast<std::uint32_t>(query.size()))
        .put_text(query);
    return data;
}

std::vector<std::string> listed(raw_client& c)
{
    std::vector<std::string> names;
    const auto answers = c.ask(option::list);
    for (const auto& a : answers) {
        proto::reader in{a.data};
        if (a.type == option_reply::server)
            names.emplace_back(in.take_string(in.take<std::uint32_t>()));
    }
    if (answers.back().type != option_reply::ack)
        throw std::runtime_error{"LIST was refused"};
    return names;
}
using names = std::vector<std::string>;

std::string text_of(const option_answer& a)
{
    return {reinterpret_cast<const char*>(a.data.data()), a.data.size()};
}

}  // namespace

#define BOTH local_place, remote_place

TEMPLATE_TEST_CASE("authorise: a refused export does not exist, and nothing is called for it", "",
                   BOTH)
{
    std::atomic<int> asked{0};
    std::atomic<int> lookups{0};
    TestType p{[&](const client& who) {
        ++asked;
        return who.export_name != "secret" && who.export_name != "found secret";
    }};
    p.server.exports().on_lookup([&](std::string_view, const client&) {
        ++lookups;
        return std::shared_ptr<disk>{};
    });
    auto c = p.greeted();
    REQUIRE(c.ask(option::structured_reply).back().type == option_reply::ack);
    for (const std::string name : {"secret", "found secret"}) {
        for (const auto o :
             {option::info, option::go, option::list_meta_context, option::set_meta_context}) {
            const bool meta = o == option::list_meta_context || o == option::set_meta_context;
            const auto data = [meta](const std::string& of) {
                return meta ? meta_data(of) : raw_client::info_data(of);
            };
            const auto before = asked.load();
            const auto answer = c.ask(o, data(name));
            CHECK(asked == before + 1);
            CHECK(lookups == 0);
            REQUIRE(answer.size() == 1);
            CHECK(p.refusal() == errc::not_authorised);
            CHECK(p.refusal().text == "export \"" + name + '"');
            // A name of the same length that nobody has.
            const auto absent = std::string(name.size(), 'x');
            const auto other = c.ask(o, data(absent));
            CHECK(p.refusal() == errc::unknown_export);
            REQUIRE(other.size() == 1);
            CHECK(answer[0].type == other[0].type);
            auto expected = text_of(other[0]);
            expected.replace(expected.find(absent), absent.size(), name);
            CHECK(text_of(answer[0]) == expected);
            lookups = 0;
        }
    }
    CHECK(p.seen.opens == 0);
    CHECK(c.ask(option::go, raw_client::info_data("disk")).back().type == option_reply::ack);
    CHECK(c.request(command::flush, 0, 0) == error_value::none);
    CHECK(p.seen.opens == 1);
}

TEMPLATE_TEST_CASE("authorise: EXPORT_NAME, which has no error reply", "", BOTH)
{
    const auto send_name = [](raw_client& c, std::string_view name) {
        c.send_option(option::export_name, std::as_bytes(std::span{name}));
    };
    TestType p{[](const client& who) { return who.export_name == "disk"; }};
    auto c = p.greeted();
    send_name(c, "secret");
    CHECK(c.closed(1));
    CHECK(p.departure() == errc::export_name_refused);
    CHECK(p.refusal() == errc::not_authorised);
    CHECK(p.seen.opens == 0);
    auto other = p.greeted();
    send_name(other, "disk");
    CHECK(proto::load<std::uint64_t>(other.receive(10)) == 1 << 20);
    CHECK(other.read(0, 4));
}

TEMPLATE_TEST_CASE("authorise: the empty name is the default export", "", BOTH)
{
    TestType p{!allow::export_name("disk")};
    auto c = p.greeted();
    CHECK(c.ask(option::info, raw_client::info_data("")).back().type == option_reply::err_unknown);
    CHECK(p.refusal().text == "export \"disk\": export disk");
    p.server.exports().set_default("public");
    CHECK(c.ask(option::go, raw_client::info_data("")).back().type == option_reply::ack);
}

TEMPLATE_TEST_CASE("authorise: LIST names what the client may use", "", BOTH)
{
    SECTION("exports that were added")
    {
        TestType p{!allow::export_name("secret")};
        auto c = p.greeted();
        CHECK(listed(c) == names{"disk", "public"});
        CHECK(p.refusal() == std::error_code{});
        p.server.exports().remove("disk");
        CHECK(listed(c) == names{"public"});
    }
    SECTION("none, and some only to read")
    {
        TestType p{[](const client& who) {
            return who.export_name == "public" ? permission::read_only : permission::refused;
        }};
        auto c = p.greeted();
        CHECK(listed(c) == names{"public"});
        p.server.exports().remove("public");
        CHECK(listed(c).empty());
    }
    SECTION("exports of on_list; whole pages that are refused")
    {
        TestType p{[](const client& who) {
                       return !who.export_name.starts_with("snapshot-")
                           || who.export_name.ends_with("999");
                   },
                   {.exports_listed = 6}};
        p.server.exports().on_list([](nbd::name_list& to) {
            for (int i = 1'000; i < 10'000; ++i)
                to.add("snapshot-" + std::to_string(i));
        });
        auto c = p.greeted();
        CHECK(listed(c)
              == names{"disk", "public", "secret", "snapshot-1999", "snapshot-2999",
                       "snapshot-3999"});
        CHECK(p.refusal() == errc::too_many_exports);
    }
    SECTION("a function that throws hides the export")
    {
        TestType p{[](const client& who) -> bool {
            if (who.export_name == "disk")
                throw std::runtime_error{"the directory is down"};
            return true;
        }};
        auto c = p.greeted();
        CHECK(listed(c) == names{"public", "secret"});
    }
}

TEMPLATE_TEST_CASE("authorise: one client reads only, and others write", "", BOTH)
{
    std::atomic<permission> now{permission::read_only};
    TestType p{[&](const client&) { return now.load(); }};
    auto reader = connect(p.server);
    const auto its = reader.go("disk");
    now = permission::full;
    auto writer = connect(p.server);
    const auto full = writer.go("disk");

    CHECK((full.flags & transmission_flag::read_only) == 0);
    CHECK((full.flags & transmission_flag::send_trim) != 0);
    CHECK((its.flags & transmission_flag::read_only) != 0);
    CHECK((its.flags & transmission_flag::send_flush) != 0);
    CHECK((its.flags
           & (transmission_flag::send_trim | transmission_flag::send_fua
              | transmission_flag::send_write_zeroes))
          == 0);
    const bytes data(512);
    CHECK(reader.write(0, data) == error_value::eperm);
    CHECK(reader.request(command::trim, 0, 512) == error_value::eperm);
    CHECK(reader.request(command::write_zeroes, 0, 512) == error_value::eperm);
    CHECK(reader.request(command::flush, 0, 0) == error_value::none);
    CHECK(reader.read(0, 4) == bytes(4, std::byte{7}));
    CHECK(writer.write(0, data) == error_value::none);
    CHECK(writer.request(command::trim, 0, 512) == error_value::none);
}

TEMPLATE_TEST_CASE("authorise: each option is decided anew, and the last one counts", "", BOTH)
{
    std::atomic<permission> now{permission::full};
    TestType p{[&](const client&) { return now.load(); }};
    auto c = p.greeted();
    const auto info = raw_client::info_data("disk");
    CHECK(c.ask(option::info, info).back().type == option_reply::ack);
    now = permission::refused;
    CHECK(c.ask(option::go, info).back().type == option_reply::err_unknown);
    now = permission::read_only;
    CHECK(c.ask(option::go, info).back().type == option_reply::ack);
    now = permission::full;  // too late
    CHECK(c.write(0, bytes(512)) == error_value::eperm);
}

TEMPLATE_TEST_CASE("authorise: an exception refuses, and the observer gets its text", "", BOTH)
{
    TestType p{
        [](const client&) -> permission { throw std::runtime_error{"the directory is down"}; }};
    auto c = p.greeted();
    const auto answer = c.ask(option::go, raw_client::info_data("disk")).back();
    CHECK(answer.type == option_reply::err_unknown);
    CHECK(text_of(answer).find("directory") == std::string::npos);
    CHECK(p.refusal() == errc::not_authorised);
    CHECK(p.refusal().text.find("the directory is down") != std::string::npos);
    CHECK(p.seen.opens == 0);
}

TEMPLATE_TEST_CASE("authorise: it may be awaited, and delays no other client", "", BOTH)
{
    switchboard board;
    board.close({1});
    TestType p{[&](const client& who) -> boost::asio::awaitable<permission> {
        if (who.export_name == "public")
            co_return permission::full;
        board.enter("authorise " + who.export_name);
        co_await until_open<boost::asio::any_io_executor>(board, 1);
        board.leave();
        co_return who.export_name == "disk" ? permission::read_only : permission::refused;
    }};
    const auto asks = [&p](const char* name) {
        return std::async(std::launch::async, [&p, name] {
            auto c = p.greeted();
            return c.ask(option::go, raw_client::info_data(name)).back().type;
        });
    };
    auto disk_client = asks("disk");
    auto secret_client = asks("secret");
    auto list = std::async(std::launch::async, [&p] {
        auto c = p.greeted();
        return listed(c);
    });
    {
        auto leaves = p.greeted();
        leaves.send_option(option::go, raw_client::info_data("secret"));
        REQUIRE(board.await([&] { return board.inside == 4; }));
    }
    auto other = connect(p.server);
    other.go("public");
    CHECK(other.read(0, 4));
    CHECK(p.seen.opens == 1);
    board.open(1);
    CHECK(disk_client.get() == option_reply::ack);
    CHECK(secret_client.get() == option_reply::err_unknown);
    CHECK(list.get() == names{"disk", "public"});
    p.server.stop();  // waits for the client that has left
    CHECK(board.inside == 0);
    CHECK(p.seen.opens == 2);
}

TEMPLATE_TEST_CASE("authorise: LIST asks no more than other options may", "", BOTH)
{
    constexpr int options = 16;
    std::atomic<int> asked{0};
    nbd::settings limits;
    limits.options_per_handshake = options;
    TestType p{[&](const client&) {
                   ++asked;
                   return true;
               },
               limits};
    auto c = p.greeted();
    int lists = 0;
    try {
        for (; lists < 60; ++lists)  // three exports allow 48 options more, but only 12 calls
            std::ignore = c.ask(option::list);
        FAIL("all were answered");
    } catch (const std::runtime_error&) {
        CHECK(p.departure() == errc::too_many_options);
    }
    CHECK(lists == options + 12);
    CHECK(asked == 3 * lists);
}

namespace {

/// A function of authorise that awaits offset 1 of a switchboard, and how often it was called.
struct slow_rule {
    switchboard board{};
    std::atomic<int> asked{0};

    slow_rule() { board.close({1}); }
    [[nodiscard]] auto function()
    {
        return [this](const client& who) -> boost::asio::awaitable<permission> {
            ++asked;
            board.enter(who.export_name);
            co_await until_open<boost::asio::any_io_executor>(board, 1);
            board.leave();
            co_return permission::full;
        };
    }
    [[nodiscard]] bool is_called()
    {
        return board.await([this] { return board.inside == 1; });
    }
};

}  // namespace

TEMPLATE_TEST_CASE("authorise: LIST asks about no further export when the server stops", "", BOTH)
{
    slow_rule rule;
    TestType p{rule.function()};
    auto idle = p.greeted();
    auto c = p.greeted();
    c.send_option(option::list);
    REQUIRE(rule.is_called());
    auto stop = std::async(std::launch::async, [&p] { p.server.stop(); });
    CHECK(idle.closed());  // so the server is stopping
    rule.board.open(1);
    CHECK(c.receive_answer().type == option_reply::server);  // the one that was asked about
    CHECK(c.receive_answer().type == option_reply::err_shutdown);
    CHECK(c.closed());
    stop.get();
    CHECK(rule.asked == 1);
}

TEMPLATE_TEST_CASE("authorise: LIST asks about no further export when the client has left", "",
                   BOTH)
{
    slow_rule rule;
    TestType p{rule.function()};
    auto c = p.greeted();
    c.send_option(option::list);
    REQUIRE(rule.is_called());
    bool by_server = false;
    SECTION("the client closes the connection")
    {
        c.reset();
    }
    SECTION("the server closes the connection")
    {
        by_server = true;
        REQUIRE(p.server.disconnect(p.server.connections().at(0).id));
    }
    const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds{20};
    while (p.server.connections().at(0).state != nbd::connection_state::closing) {
        REQUIRE(std::chrono::steady_clock::now() < patience);
        std::this_thread::sleep_for(std::chrono::milliseconds{1});
    }
    rule.board.open(1);
    CHECK(p.departure() == (by_server ? errc::disconnected : errc::cut_short));
    CHECK(rule.asked == 1);
}

TEMPLATE_TEST_CASE("authorise: an export that is changed meanwhile is looked at again", "", BOTH)
{
    slow_rule rule;
    TestType p{rule.function()};
    const std::string name = GENERATE("disk", "");  // the second is the default export
    auto c = p.greeted();
    c.send_option(option::go, raw_client::info_data(name));
    REQUIRE(rule.is_called());
    auto& exports = p.server.exports();
    SECTION("it is removed")
    {
        REQUIRE(exports.remove("disk"));
        rule.board.open(1);
        CHECK(c.receive_answer().type == option_reply::err_unknown);
        CHECK(p.refusal() == errc::unknown_export);
        CHECK(p.seen.opens == 0);
    }
    SECTION("another one takes its place")
    {
        record other;
        REQUIRE(exports.remove("disk"));
        exports.add("disk", disk{&other});
        rule.board.open(1);
        CHECK(c.receive_answer().type == option_reply::info);
        CHECK(p.seen.opens == 0);
        CHECK(other.opens == 1);
        p.server.stop();
    }
    SECTION("it is made read-only")
    {
        REQUIRE(exports.set_read_only("disk", true));
        rule.board.open(1);
        const auto info = c.receive_answer();
        REQUIRE(info.type == option_reply::info);
        proto::reader in{info.data};
        REQUIRE(in.take<std::uint16_t>() == 0);
        std::ignore = in.take<std::uint64_t>();
        CHECK((in.take<std::uint16_t>() & transmission_flag::read_only) != 0);
    }
    CHECK(rule.asked == 1);
}

TEMPLATE_TEST_CASE("authorise: exports of on_lookup", "", BOTH)
{
    TestType p{allow::export_name("found") || (allow::export_name("read") && allow::read_only())};
    p.server.exports().on_lookup(
        [&](std::string_view, const client&) { return std::make_shared<disk>(disk{&p.seen}); });
    auto found = connect(p.server);
    CHECK((found.go("found").flags & transmission_flag::read_only) == 0);
    CHECK(found.write(0, bytes(512)) == error_value::none);
    auto read = connect(p.server);
    CHECK((read.go("read").flags & transmission_flag::read_only) != 0);
    CHECK(read.write(0, bytes(512)) == error_value::eperm);
    auto other = p.greeted();
    CHECK(other.ask(option::go, raw_client::info_data("other")).back().type
          == option_reply::err_unknown);
    CHECK(p.refusal().text == "export \"other\": not export found and not export read");
    CHECK(p.seen.opens == 2);
}

namespace {

/// The client that a rule was asked about last.
class last_client {
public:
    /// Lets in every client.
    [[nodiscard]] nbd::access_rule rule()
    {
        return [this](const client& who) {
            const std::lock_guard lock{mutex_};
            last_ = who;
            return true;
        };
    }
    [[nodiscard]] client get()
    {
        const std::lock_guard lock{mutex_};
        return last_;
    }

private:
    std::mutex mutex_;
    client last_;
};

}  // namespace

TEST_CASE("authorise: the user of a UNIX socket")
{
    const auto own = ::getuid();
    last_client last;
    const auto noted = last.rule();
    SECTION("who is let in")
    {
        local_place p{noted && allow::user(own) && allow::group(::getgid())};
        auto c = connect(p.server);
        c.go("disk");
        const auto who = last.get();
        CHECK(who.transport == "unix");
        REQUIRE(who.process);
        CHECK(who.process->process == ::getpid());
        CHECK(who.process->user == own);
        CHECK(who.process->group == ::getgid());
        CHECK_FALSE(who.address);
        CHECK(who.export_name == "disk");
    }
    SECTION("who is not")
    {
        local_place p{allow::user(own + 1) || allow::address("0.0.0.0/0", "::/0")};
        auto c = p.greeted();
        CHECK(c.ask(option::go, raw_client::info_data("disk")).back().type
              == option_reply::err_unknown);
        CHECK(p.refusal().text
              == "export \"disk\": not user " + std::to_string(own + 1)
                  + " and not address 0.0.0.0/0, ::/0");
        CHECK(listed(c).empty());
        CHECK(p.seen.opens == 0);
    }
}

TEST_CASE("authorise: the address of a TCP client")
{
    last_client last;
    const auto noted = last.rule();
    SECTION("who is let in")
    {
        remote_place p{noted && allow::address("127.0.0.0/8")};
        auto c = connect(p.server);
        c.go("disk");
        const auto who = last.get();
        CHECK(who.transport == "tcp");
        CHECK(who.address == nbd::ip_address::v4({127, 0, 0, 1}));
        CHECK(who.peer == "127.0.0.1:" + std::to_string(who.port));
        CHECK_FALSE(who.process);
    }
    SECTION("who is not")
    {
        remote_place p{!allow::address("127.0.0.0/8") || allow::user(::getuid()) || allow::tls()};
        auto c = p.greeted();
        CHECK(c.ask(option::go, raw_client::info_data("disk")).back().type
              == option_reply::err_unknown);
        CHECK(p.refusal().text.starts_with("export \"disk\": address 127.0.0.0/8 and not user "));
        CHECK(p.seen.opens == 0);
    }
}
