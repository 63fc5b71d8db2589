// SPDX-License-Identifier: MIT
// Every member of a server and of its export set, called from every callback of a backend, of an
// observer, and from `admit` and `authorise`: each returns, and the server serves its clients
// afterwards.
#include "catch.hpp"
#include "grid/chunk_client.hpp"
#include "grid/program.hpp"
#include "grid/server_fixture.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <functional>
#include <iostream>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/socket.h>
#include <unistd.h>

namespace {

using namespace grid;
using proto::command;
using style = proto::reply_style;

constexpr std::uint64_t mib = 1 << 20;

/// Calls a function once, when a callback of one name runs.
class plan {
public:
    void set(std::string_view callback, std::function<std::error_code()> call)
    {
        const std::lock_guard lock{mutex_};
        callback_ = callback;
        call_ = std::move(call);
        result_.reset();
    }
    void reached(std::string_view callback)
    {
        std::function<std::error_code()> now;
        {
            const std::lock_guard lock{mutex_};
            if (callback != callback_ || !call_)
                return;
            now = std::exchange(call_, nullptr);
        }
        std::error_code result;
        try {
            result = now();
        } catch (const std::system_error& e) {
            result = e.code();
        } catch (const std::exception&) {  // the name of an export is in use
        }
        const std::lock_guard lock{mutex_};
        result_ = result;
        changed_.notify_all();
    }
    /// *Returns* what the call returned. If it does not return, nothing can be cleaned up.
    [[nodiscard]] std::error_code result(std::string_view member)
    {
        std::unique_lock lock{mutex_};
        if (!changed_.wait_for(lock, std::chrono::seconds{30}, [this] { return !!result_; })) {
            std::cerr << "nested_calls: " << member << " from " << callback_
                      << (call_ ? " was not called\n" : " does not return\n");
            std::abort();
        }
        return *result_;
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::string callback_;
    std::function<std::error_code()> call_;
    std::optional<std::error_code> result_;
};

template <nbd::concurrency Promise, bool Blocks = false>
struct plain {
    static constexpr nbd::concurrency concurrency = Promise;
    static constexpr bool blocks = Blocks;
    plan* at = nullptr;

    std::uint64_t size() const { return mib; }
    std::uint64_t refresh_size() noexcept
    {
        at->reached("refresh_size");
        return mib;
    }
    nbd::block_sizes block_sizes() const
    {
        at->reached("block_sizes");
        return {};
    }
    nbd::abilities abilities() const
    {
        at->reached("abilities");
        return {};
    }
    void read(std::uint64_t, std::span<std::byte>) { at->reached("read"); }
    void write(std::uint64_t, std::span<const std::byte>) { at->reached("write"); }
    void flush() { at->reached("flush"); }
    void trim(std::uint64_t, std::uint64_t) { at->reached("trim"); }
    void write_zeroes(std::uint64_t, std::uint64_t, nbd::zero_flags)
    {
        at->reached("write_zeroes");
    }
    void cache(std::uint64_t, std::uint64_t)
    {
        at->reached("cache");
        throw std::system_error{std::make_error_code(std::errc::io_error)};
    }
    void extents(std::uint64_t, std::uint64_t length, nbd::extent_list& to)
    {
        at->reached("extents");
        to.add(length, 0);
    }
    void resize(std::uint64_t) { at->reached("resize"); }
    void drain(nbd::drain_reason)
    {
        at->reached("drain");
        throw std::system_error{std::make_error_code(std::errc::io_error)};
    }
};
using in_turn = plain<nbd::concurrency::serialize_all>;
using in_turn_blocking = plain<nbd::concurrency::serialize_all, true>;
using at_once = plain<nbd::concurrency::parallel>;

/// The same, awaited.
struct awaited {
    using task = boost::asio::awaitable<void, boost::asio::io_context::executor_type>;
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    at_once inner;

    std::uint64_t size() const { return mib; }
    std::uint64_t refresh_size() noexcept { return inner.refresh_size(); }
    nbd::block_sizes block_sizes() const { return inner.block_sizes(); }
    nbd::abilities abilities() const { return inner.abilities(); }
    task read(std::uint64_t offset, std::span<std::byte> to)
    {
        inner.read(offset, to);
        co_return;
    }
    task write(std::uint64_t offset, std::span<const std::byte> from)
    {
        inner.write(offset, from);
        co_return;
    }
    task flush()
    {
        inner.flush();
        co_return;
    }
    task trim(std::uint64_t offset, std::uint64_t length)
    {
        inner.trim(offset, length);
        co_return;
    }
    task write_zeroes(std::uint64_t offset, std::uint64_t length, nbd::zero_flags flags)
    {
        inner.write_zeroes(offset, length, flags);
        co_return;
    }
    task cache(std::uint64_t offset, std::uint64_t length)
    {
        inner.cache(offset, length);
        co_return;
    }
    task extents(std::uint64_t offset, std::uint64_t length, nbd::extent_list& to)
    {
        inner.extents(offset, length, to);
        co_return;
    }
    void resize(std::uint64_t size) { inner.resize(size); }
    task drain(nbd::drain_reason why)
    {
        inner.drain(why);
        co_return;
    }
};

struct watcher {
    plan* at = nullptr;
    std::atomic<std::uint64_t>* last_client = nullptr;

    void at_connect(const nbd::client& c)
    {
        *last_client = c.id;
        at->reached("at_connect");
    }
    void at_option(const nbd::client&, const proto::option_header&) { at->reached("at_option"); }
    void at_export_opened(const nbd::client&, std::string_view, const proto::export_terms&)
    {
        at->reached("at_export_opened");
    }
    void at_request(const nbd::client&, const proto::request&) { at->reached("at_request"); }
    void at_reply(const nbd::client&, const proto::request&, proto::error_value)
    {
        at->reached("at_reply");
    }
    void at_option_error(const nbd::client&, const proto::option_header&, const nbd::failure&)
    {
        at->reached("at_option_error");
    }
    void at_error(const nbd::client&, const proto::request&, const nbd::failure&)
    {
        at->reached("at_error");
    }
    void at_disconnect(const nbd::client&, std::error_code) { at->reached("at_disconnect"); }
    void at_drain_error(std::string_view, nbd::drain_reason, const nbd::failure&)
    {
        at->reached("at_drain_error");
    }
    void at_accept_error(std::error_code) { at->reached("at_accept_error"); }
};

/// Those of the backend are called with the lock that a resize takes, if the backend has one.
constexpr std::array with_lock{"read",         "write", "flush",   "trim",
                               "write_zeroes", "cache", "extents", "drain"};
/// Called while no other resize may run.
constexpr std::array during_resize{"resize", "refresh_size", "block_sizes"};
constexpr std::array without_lock{
    "admit",    "at_connect", "at_option",       "at_export_opened", "at_request",
    "at_reply", "at_error",   "at_option_error", "at_disconnect",    "at_drain_error",
    "lookup",   "list",       "authorise",       "at_accept_error",  "abilities"};

template <class Backend, class Policy>
struct row {
    using backend = Backend;
    using server_type = nbd::server<nbd::unix_transport, Backend, Policy, watcher>;
    static constexpr bool hosted = !std::is_default_constructible_v<Policy>;

    plan at;
    std::atomic<std::uint64_t> last_client{0};
    std::atomic<bool> refuses{false};
    std::optional<program> own;
    std::optional<server_type> server;

    void start()
    {
        nbd::settings limits;
        limits.stop_grace = std::chrono::milliseconds{50};
        const auto admit = [this](const auto&) {
            at.reached("admit");
            return !refuses;
        };
        const auto authorise = [this](const nbd::client&) {
            at.reached("authorise");
            return true;
        };
        if constexpr (hosted) {
            own.emplace();
            server.emplace(
                typename server_type::options{.listen = somewhere<nbd::unix_transport>(),
                                              .settings = limits,
                                              .policy = Policy{own->context.get_executor()},
                                              .observer = {&at, &last_client},
                                              .admit = admit,
                                              .authorise = authorise});
        } else {
            server.emplace(typename server_type::options{.listen = somewhere<nbd::unix_transport>(),
                                                         .settings = limits,
                                                         .observer = {&at, &last_client},
                                                         .admit = admit,
                                                         .authorise = authorise});
        }
        add_exports();
        server->start();
    }
    void add_exports()
    {
        auto& exports = server->exports();
        for (const auto& name : exports.names())
            exports.remove(name);
        for (const auto* name : {"disk", "other"})
            exports.add(name, Backend{&at}, {.allow_resize = true});
        exports.on_lookup([this](std::string_view, const nbd::client&) {
            at.reached("lookup");
            return std::shared_ptr<Backend>{};
        });
        exports.on_list([this](nbd::name_list&) { at.reached("list"); });
    }
    /// A client whose requests reach every callback. The server may disconnect it.
    void run_client(bool refused)
    {
        refuses = refused;
        try {
            chunk_client c{server->local_endpoint(), style::structured};
            std::ignore = c.raw.ask(proto::option::list);
            std::ignore = c.raw.ask(proto::option::info, raw_client::info_data("nosuch"));
            c.select("disk", {"base:allocation"});
            c.go("disk");
            std::ignore = c.read(0, 512);
            std::ignore = c.write(0, bytes(512));
            for (const auto what : {command::flush, command::trim, command::write_zeroes,
                                    command::cache, command::block_status, command::resize})
                std::ignore =
                    c.request(what, what == command::resize ? mib : 0,
                              what == command::flush || what == command::resize ? 0 : 512);
            c.raw.disconnect();
        } catch (const std::exception&) {  // the connection is closed
        }
        refuses = false;
    }
    /// Makes one call from a callback. *Returns* what it returned.
    std::error_code call_from(std::string_view callback, std::string_view member,
                              std::function<std::error_code()> call)
    {
        at.set(callback, std::move(call));
        run_client(callback == "at_accept_error");
        return at.result(member);
    }
    void check_that_it_serves()
    {
        add_exports();
        raw_client c{server->local_endpoint()};
        c.go("disk");
        CHECK(c.read(0, 512));
    }
};

template <class F>
void for_each_callback(F f)
{
    for (const auto* callback : with_lock)
        f(callback);
    for (const auto* callback : during_resize)
        f(callback);
    for (const auto* callback : without_lock)
        f(callback);
}

/// The members, except those that stop the server and `resize`.
template <class Server>
auto members_of(Server& server, std::atomic<std::uint64_t>& last_client, plan& at)
{
    using backend = typename Server::export_set_type::backend_type;
    using calls = std::vector<std::pair<const char*, std::function<std::error_code()>>>;
    const auto quietly = [](auto call) {
        return [call]() mutable {
            call();
            return std::error_code{};
        };
    };
    const auto started = [&server](auto begin) {
        return [&server, begin] {
            std::error_code failed;
            begin(server, failed);
            return failed == nbd::errc::already_started ? std::error_code{}
                                                        : nbd::errc::not_running;
        };
    };
    return calls{
        {"names", quietly([&] { std::ignore = server.exports().names(); })},
        {"add", quietly([&] { server.exports().add("added", backend{&at}); })},
        {"emplace", quietly([&] { server.exports().emplace("made", {}, backend{&at}); })},
        {"remove another", quietly([&] { server.exports().remove("other"); })},
        {"remove", quietly([&] { server.exports().remove("disk"); })},
        {"remove with clients",
         quietly([&] { server.exports().remove("disk", {.clients = nbd::disconnect_after{}}); })},
        {"find", quietly([&] { std::ignore = server.exports().find("disk"); })},
        {"contains", quietly([&] { std::ignore = server.exports().contains("disk"); })},
        {"set_description", quietly([&] { server.exports().set_description("disk", "text"); })},
        {"set_read_only", quietly([&] { server.exports().set_read_only("disk", false); })},
        {"on_lookup", quietly([&] {
             server.exports().on_lookup(
                 [](std::string_view, const nbd::client&) { return std::shared_ptr<backend>{}; });
         })},
        {"on_list", quietly([&] { server.exports().on_list([](nbd::name_list&) {}); })},
        {"set_default", quietly([&] { server.exports().set_default("disk"); })},
        {"connections", quietly([&] { std::ignore = server.connections(); })},
        {"disconnect", quietly([&] { server.disconnect(last_client); })},
        {"adopt", quietly([&] {
             std::array<int, 2> ends{};
             if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) == 0) {
                 ::close(ends[1]);
                 server.adopt(ends[0]);
             }
         })},
        {"wait", quietly([&] { server.wait(); })},
        {"uri", quietly([&] { std::ignore = server.uri("disk"); })},
        {"local_endpoint", quietly([&] { std::ignore = server.local_endpoint(); })},
        {"get_executor", quietly([&] { std::ignore = server.get_executor(); })},
        {"observer", quietly([&] { std::ignore = server.observer(); })},
        {"start", started([](Server& s, std::error_code& failed) { s.start(failed); })},
        {"start_on", started([](Server& s, std::error_code& failed) { s.start_on(-1, failed); })},
        {"start_without_listening",
         started([](Server& s, std::error_code& failed) { s.start_without_listening(failed); })},
        {"run", started([](Server& s, std::error_code& failed) {
             try {
                 s.run();
             } catch (const std::system_error& e) {
                 failed = e.code();
             }
         })},
        {"async_run", quietly([&] { server.async_run([](boost::system::error_code) {}); })},
    };
}

}  // namespace

#define ALL_ROWS                                                                                   \
    (row<in_turn, nbd::per_client_threads>), (row<in_turn, nbd::strand_pool>),                     \
        (row<in_turn_blocking, nbd::strand_pool>), (row<awaited, nbd::strand_pool>),               \
        (row<at_once, nbd::on_executor<boost::asio::io_context::executor_type>>)

TEMPLATE_TEST_CASE("nested calls: every member returns from every callback", "", ALL_ROWS)
{
    TestType r;
    r.start();
    for (const auto& [member, call] : members_of(*r.server, r.last_client, r.at))
        for_each_callback([&, m = member, &c = call](const char* callback) {
            CAPTURE(m, callback);
            r.add_exports();
            CHECK_FALSE(r.call_from(callback, m, c));
        });
    r.check_that_it_serves();
}

TEMPLATE_TEST_CASE("nested calls: a resize from a call that a resize would wait for is EDEADLK", "",
                   ALL_ROWS)
{
    constexpr bool locks =
        nbd::concurrency_of<typename TestType::backend>() == nbd::concurrency::serialize_all;
    TestType r;
    r.start();
    const auto resized = [&r](const char* callback, const char* name) {
        CAPTURE(callback, name);
        return r.call_from(callback, "resize",
                           [&r, name] { return r.server->exports().resize(name, mib); });
    };
    for (const auto* callback : with_lock)
        CHECK(resized(callback, "disk")
              == (locks ? std::make_error_code(std::errc::resource_deadlock_would_occur)
                        : std::error_code{}));
    for (const auto* callback : during_resize)
        CHECK(resized(callback, "disk") == std::errc::resource_deadlock_would_occur);
    for (const auto* callback : without_lock)
        CHECK_FALSE(resized(callback, "disk"));
    for_each_callback([&](const char* callback) { CHECK_FALSE(resized(callback, "other")); });
    r.check_that_it_serves();
}

TEMPLATE_TEST_CASE("nested calls: the server can be stopped from every callback", "", ALL_ROWS)
{
    for_each_callback([](const char* callback) {
        for (const bool waits : {true, false}) {
            TestType r;
            r.start();
            std::ignore = r.call_from(callback, "stop", [&r, waits] {
                if (waits)
                    r.server->stop();
                else
                    r.server->async_stop([](boost::system::error_code) {});
                return std::error_code{};
            });
            r.server->wait();
        }
    });
}

namespace {
/// Calls members of its set from everything that the set calls.
struct nested {
    explicit nested(nbd::export_set<nested>& s) : set{&s} { ask(); }
    nested(nested&& other) noexcept : set{std::exchange(other.set, nullptr)} {}
    ~nested() { ask(); }
    std::uint64_t size() const
    {
        ask();
        return mib;
    }
    nbd::block_sizes block_sizes() const
    {
        ask();
        return {};
    }
    nbd::abilities abilities() const
    {
        ask();
        return {};
    }
    void read(std::uint64_t, std::span<std::byte>) {}
    void ask() const
    {
        if (set == nullptr)
            return;
        ++calls;
        std::ignore = set->names();
        set->remove("other");
        set->set_default("disk");
    }
    nbd::export_set<nested>* set;
    static inline int calls = 0;
};
}  // namespace

TEST_CASE(
    "nested calls: members of a set from a backend's constructor, destructor, size and abilities")
{
    nbd::export_set<nested> set;
    set.emplace("disk", {}, set);
    set.add("second", nested{set});
    set.remove("second");
    CHECK_THROWS_AS(set.emplace("disk", {}, set), std::invalid_argument);
    set.remove("disk");
    CHECK(nested::calls >= 8);
}
