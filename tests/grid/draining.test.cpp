// SPDX-License-Identifier: MIT
// When `drain` of a backend is called, and what becomes of one that fails or does not end: for
// every policy, and for synchronous and awaited members.
#include "catch.hpp"
#include "grid/program.hpp"
#include "grid/server_fixture.hpp"
#include <nbd/io/blocking.hpp>
#include <nbd/on.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/cancellation_type.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using namespace grid;
using nbd::drain_reason;
using policy = nbd::strand_pool;  // its awaitable is that of the other policies
using timer = policy::rebind<boost::asio::steady_timer>;
using lines = std::vector<std::string>;

constexpr std::uint64_t mib = 1 << 20;
constexpr std::chrono::milliseconds soon{250};

std::string name_of(drain_reason why)
{
    switch (why) {
    case drain_reason::last_client_left:
        return "last client left";
    case drain_reason::export_removed:
        return "removed";
    case drain_reason::server_stopped:
        return "stopped";
    }
    return "?";
}

/// What a test's backend does in `drain`, and what happened.
class journal {
public:
    enum class kind { quick, throws, waits, never, held };
    std::atomic<kind> does = kind::quick;
    std::atomic<bool> drops = false;  ///< see `dropping`

    void add(const std::string& line)
    {
        const std::lock_guard lock{mutex_};
        all_.push_back(line);
        changed_.notify_all();
    }
    void disconnected()
    {
        const std::lock_guard lock{mutex_};
        ++left_;
        changed_.notify_all();
    }
    /// *Returns* all lines when there are `n`.
    lines first(std::size_t n)
    {
        std::unique_lock lock{mutex_};
        wait(lock, [&] { return all_.size() >= n; });
        return all_;
    }
    void await_line(std::string_view line)
    {
        std::unique_lock lock{mutex_};
        wait(lock, [&] { return std::find(all_.begin(), all_.end(), line) != all_.end(); });
    }
    lines all()
    {
        const std::lock_guard lock{mutex_};
        return all_;
    }
    void await_left(int n)
    {
        std::unique_lock lock{mutex_};
        wait(lock, [&] { return left_ == n; });
    }
    /// For `held`.
    void release()
    {
        const std::lock_guard lock{mutex_};
        released_ = true;
        changed_.notify_all();
    }
    [[nodiscard]] bool released()
    {
        const std::lock_guard lock{mutex_};
        return released_;
    }
    void await_release()
    {
        std::unique_lock lock{mutex_};
        wait(lock, [&] { return released_; });
    }
    /// Counts a call while it exists.
    class call {
    public:
        explicit call(journal& j) : at_{j}
        {
            const std::lock_guard lock{at_.mutex_};
            at_.most_ = std::max(at_.most_, ++at_.inside_);
        }
        call(const call&) = delete;
        call& operator=(const call&) = delete;
        ~call()
        {
            const std::lock_guard lock{at_.mutex_};
            --at_.inside_;
        }

    private:
        journal& at_;
    };
    /// Calls that ran at the same time.
    [[nodiscard]] std::size_t most()
    {
        const std::lock_guard lock{mutex_};
        return most_;
    }

private:
    template <class Condition>
    void wait(std::unique_lock<std::mutex>& lock, Condition condition)
    {
        if (!changed_.wait_for(lock, std::chrono::seconds{20}, condition)) {
            for (const auto& line : all_)
                std::cerr << "draining: " << line << '\n';
            std::cerr << "draining: an event does not come\n";
            std::abort();
        }
    }
    std::mutex mutex_;
    std::condition_variable changed_;
    lines all_;
    int left_ = 0;
    std::size_t inside_ = 0;
    std::size_t most_ = 0;
    bool released_ = false;
};

struct base {
    journal* at;
    std::string name;
    [[nodiscard]] std::uint64_t size() const { return mib; }
};
struct plain : base {
    void read(std::uint64_t, std::span<std::byte>) {}
};
struct awaited : base {
    policy::awaitable<void> read(std::uint64_t, std::span<std::byte>) { co_return; }
};

template <class Base, nbd::concurrency Promise = nbd::concurrency::serialize_all,
          bool Blocks = false>
struct sync_drain : Base {
    static constexpr nbd::concurrency concurrency = Promise;
    static constexpr bool blocks = Blocks;
    static constexpr bool awaits = false;

    void drain(drain_reason why)
    {
        const journal::call running{*this->at};
        this->at->add(this->name + ": " + name_of(why));
        if (this->at->does == journal::kind::throws)
            throw std::system_error{std::make_error_code(std::errc::no_space_on_device)};
        if (this->at->does == journal::kind::held)
            this->at->await_release();
    }
};
template <class Base, nbd::concurrency Promise = nbd::concurrency::parallel,
          bool Cancellable = false>
struct awaited_drain : Base {
    static constexpr nbd::concurrency concurrency = Promise;
    static constexpr bool cancellable = Cancellable;
    static constexpr bool awaits = true;

    policy::awaitable<std::error_code> drain(drain_reason why)
    {
        auto* const to = this->at;  // a call that is left alone may outlive the test
        std::optional<journal::call> running;
        if (to->does == journal::kind::held)
            running.emplace(*to);
        to->add(this->name + ": " + name_of(why));
        timer wait{co_await boost::asio::this_coro::executor};
        try {
            switch (to->does.load()) {
            case journal::kind::quick:
                break;
            case journal::kind::throws:
                throw std::system_error{std::make_error_code(std::errc::no_space_on_device)};
            case journal::kind::waits:
                wait.expires_after(std::chrono::milliseconds{50});
                co_await wait.async_wait(policy::use_awaitable);
                to->add("waited");
                break;
            case journal::kind::never:
                wait.expires_after(std::chrono::hours{1});
                co_await wait.async_wait(policy::use_awaitable);
                break;
            case journal::kind::held:
                while (!to->released()) {
                    wait.expires_after(std::chrono::milliseconds{1});
                    co_await wait.async_wait(policy::use_awaitable);
                }
                break;
            }
        } catch (const boost::system::system_error& e) {
            if (e.code() == boost::asio::error::operation_aborted)
                to->add("cancelled");
            co_return e.code();
        }
        co_return std::error_code{};
    }
};
/// With an object for each client.
struct opens : base {
    static constexpr bool awaits = false;
    plain open(const nbd::client&) { return {{at, name}}; }
    std::errc drain(drain_reason why)
    {
        at->add(name + ": " + name_of(why));
        return at->does == journal::kind::throws ? std::errc::no_space_on_device : std::errc{};
    }
};
/// With callbacks.
struct calls_back : base {
    void async_read(std::uint64_t, std::span<std::byte>, nbd::completion done) { done({}); }
};

struct watcher {
    journal* at;
    void at_disconnect(const nbd::client&, std::error_code) { at->disconnected(); }
    void at_drain_error(std::string_view name, drain_reason why, const nbd::failure& f)
    {
        at->add("error of " + std::string{name} + ", " + name_of(why)
                + (f == std::errc::timed_out                ? ": timed out"
                       : f == std::errc::no_space_on_device ? ": no space"
                                                            : ": " + f.code.message()));
    }
};

/// Destroys a session instead of running it, or its task if the call is awaited, as without a
/// thread or memory.
class dropping : public nbd::per_client_threads {
public:
    explicit dropping(journal& j) : at_{&j} {}

    template <class Session>
    void launch(const executor_type& on, Session session) noexcept
    {
        if (!at_->drops)
            return per_client_threads::launch(on, std::move(session));
        if constexpr (!std::is_same_v<decltype(session()), nbd::io::blocking::task<void>>)
            std::ignore = session();
    }

private:
    journal* at_;
};

template <class Backend, class Policy>
struct row {
    using backend = Backend;
    using server_type = nbd::server<nbd::unix_transport, Backend, Policy, watcher>;
    static constexpr bool hosted = std::is_same_v<Policy, nbd::on_executor<>>;

    journal at;
    std::optional<program> runs;
    std::shared_ptr<nbd::export_set<Backend>> exports =
        std::make_shared<nbd::export_set<Backend>>();
    std::unique_ptr<server_type> server;

    explicit row(std::chrono::milliseconds drain_grace = std::chrono::minutes{1},
                 nbd::settings limits = {})
        : server{make(drain_grace, limits)}
    {
    }
    std::unique_ptr<server_type> make(std::chrono::milliseconds drain_grace = soon,
                                      nbd::settings limits = {})
    {
        limits.drain_grace = drain_grace;
        typename server_type::options o{.listen = somewhere<nbd::unix_transport>(),
                                        .exports = exports,
                                        .settings = limits,
                                        .policy = policy_of(),
                                        .observer = {&at}};
        auto made = std::make_unique<server_type>(std::move(o));
        made->start();
        return made;
    }
    Policy policy_of()
    {
        if constexpr (hosted) {
            if (!runs)
                runs.emplace();
            return Policy{runs->context};
        } else if constexpr (std::is_same_v<Policy, nbd::strand_pool>) {
            return Policy{2};
        } else if constexpr (std::is_same_v<Policy, dropping>) {
            return Policy{at};
        } else {
            return {};
        }
    }
    void add(const std::string& name) { exports->add(name, Backend{{{&at, name}}}); }
    raw_client join(std::string_view name)
    {
        auto c = connect(*server);
        c.go(name);
        CHECK(c.read(0, 512));
        return c;
    }
    void stop()
    {
        server->stop();
        server->wait();
    }
};

using nbd::concurrency;
template <class Backend>
using per_client = row<Backend, nbd::per_client_threads>;
template <class Backend>
using pool = row<Backend, nbd::strand_pool>;
template <class Backend>
using on_program = row<Backend, nbd::on_executor<>>;

/// For calls that run at the same time.
using side_by_side = sync_drain<plain, concurrency::parallel>;
using blocking = sync_drain<plain, concurrency::parallel, true>;
using cancellable = awaited_drain<awaited, concurrency::parallel, true>;
using in_turn = awaited_drain<awaited, concurrency::serialize_all>;

}  // namespace

#define EVERY_ROW                                                                                  \
    per_client<sync_drain<plain>>, pool<sync_drain<plain>>, on_program<sync_drain<plain>>,         \
        pool<blocking>, (pool<sync_drain<plain, concurrency::serialize_all, true>>),               \
        pool<sync_drain<awaited>>, per_client<sync_drain<awaited>>,                                \
        per_client<awaited_drain<awaited>>, pool<awaited_drain<awaited>>,                          \
        on_program<awaited_drain<awaited>>, pool<in_turn>, per_client<awaited_drain<plain>>,       \
        on_program<awaited_drain<plain>>, pool<awaited_drain<calls_back>>
#define AWAITED_ROWS                                                                               \
    per_client<awaited_drain<awaited>>, pool<awaited_drain<awaited>>,                              \
        on_program<awaited_drain<awaited>>, pool<in_turn>, per_client<awaited_drain<plain>>,       \
        on_program<awaited_drain<plain>>, pool<awaited_drain<calls_back>>

TEMPLATE_TEST_CASE("draining: when the last client has left, at a removal and at the end", "",
                   EVERY_ROW)
{
    TestType r;
    for (const auto* name : {"a", "b", "c", "d"})
        r.add(name);
    {
        auto in_handshake = connect(*r.server);
        in_handshake.greet();
        std::ignore = in_handshake.ask(proto::option::info, raw_client::info_data("a"));
    }
    r.at.await_left(1);
    auto one = r.join("a");
    auto two = r.join("a");
    one.disconnect();
    r.at.await_left(2);
    CHECK(r.at.all().empty());
    two.close();
    CHECK(r.at.first(1) == lines{"a: last client left"});

    auto three = r.join("a");
    const std::weak_ptr removed = r.exports->find("a");
    CHECK(r.exports->remove("a"));
    CHECK(three.request(proto::command::read, 0, 512) == proto::error_value::eshutdown);
    CHECK(r.at.all().size() == 1);
    three.disconnect();
    CHECK(r.at.first(2)[1] == "a: removed");
    CHECK(r.exports->remove("b"));  // it has no clients
    CHECK(r.at.first(3)[2] == "b: removed");

    auto last = r.join("c");
    r.stop();
    auto all = r.at.all();
    REQUIRE(all.size() == 5);
    std::sort(all.begin() + 3, all.end());
    CHECK(all[3] == "c: stopped");
    CHECK(all[4] == "d: stopped");
    CHECK(removed.expired());
    r.exports->remove("d");
    CHECK(r.at.all().size() == 5);
}

TEMPLATE_TEST_CASE("draining: an error goes to the observer, and the server goes on", "", EVERY_ROW)
{
    TestType r;
    r.at.does = journal::kind::throws;
    r.add("a");
    r.join("a").disconnect();
    CHECK(r.at.first(2) == lines{"a: last client left", "error of a, last client left: no space"});
    r.join("a").disconnect();
    CHECK(r.at.first(4)[3] == "error of a, last client left: no space");
    r.stop();
    CHECK(r.at.all().back() == "error of a, stopped: no space");
}

TEMPLATE_TEST_CASE("draining: the end of the server waits for what is awaited", "", AWAITED_ROWS)
{
    TestType r;
    r.at.does = journal::kind::waits;
    r.add("a");
    auto client = r.join("a");
    SECTION("stop")
    {
        r.stop();
    }
    SECTION("async_stop")
    {
        std::promise<void> over;
        r.server->async_stop([&](std::error_code) {
            r.at.add("over");
            over.set_value();
        });
        over.get_future().get();
        CHECK(r.at.all().back() == "over");
    }
    SECTION("the destructor")
    {
        r.server.reset();
        std::ignore = r.at.first(2);
    }
    auto all = r.at.first(2);
    all.resize(2);
    CHECK(all == lines{"a: stopped", "waited"});
}

TEMPLATE_TEST_CASE("draining: a call that does not end is left alone after drain_grace", "",
                   AWAITED_ROWS, pool<cancellable>, per_client<cancellable>,
                   on_program<cancellable>)
{
    TestType r{soon};
    r.at.does = journal::kind::never;
    r.add("a");
    r.add("b");
    r.join("a").disconnect();
    REQUIRE(r.at.first(1) == lines{"a: last client left"});
    const auto begun = std::chrono::steady_clock::now();
    r.stop();
    CHECK(std::chrono::steady_clock::now() - begun < std::chrono::minutes{5});
    const auto all = r.at.all();
    const auto has = [&](std::string_view line) {
        return std::find(all.begin(), all.end(), line) != all.end();
    };
    CHECK_FALSE(has("a: stopped"));
    CHECK(has("error of a, last client left: timed out"));
    CHECK(has("error of a, stopped: timed out"));
    CHECK(has("error of b, stopped: timed out"));
    if (TestType::backend::cancellable)
        r.at.await_line("cancelled");
    else
        CHECK_FALSE(has("cancelled"));
    r.server.reset();
    if (r.runs)
        r.runs->context.stop();  // the timers are still in it
}

TEMPLATE_TEST_CASE("draining: a cancellation of async_stop ends the grace period that runs", "",
                   pool<cancellable>, per_client<awaited_drain<plain>>,
                   on_program<awaited_drain<awaited>>)
{
    boost::asio::io_context handlers;  // outlives the threads of `r`, which post to it
    nbd::settings limits;
    limits.stop_grace = std::chrono::minutes{1};
    limits.send_timeout = std::chrono::milliseconds{0};
    limits.least_transfer_rate = 0;
    TestType r{std::chrono::minutes{1}, limits};
    r.at.does = journal::kind::never;
    r.add("a");
    auto reads_no_reply = connect(*r.server);
    reads_no_reply.go("a");
    grid::bytes batch;
    for (int i = 0; i < 200; ++i)
        raw_client::append(batch, {.length = mib});
    reads_no_reply.send(batch);

    boost::asio::cancellation_signal cancelled;
    const auto begun = std::chrono::steady_clock::now();
    r.server->async_stop(boost::asio::bind_executor(
        handlers,
        boost::asio::bind_cancellation_slot(cancelled.slot(),
                                            [&](boost::system::error_code) { r.at.add("over"); })));
    cancelled.emit(boost::asio::cancellation_type::total);
    r.at.await_left(1);
    CHECK(r.at.first(1) == lines{"a: stopped"});
    cancelled.emit(boost::asio::cancellation_type::terminal);
    handlers.run();
    CHECK(std::chrono::steady_clock::now() - begun < std::chrono::seconds{30});
    r.at.await_line("error of a, stopped: timed out");
    r.at.await_line("over");
    r.server.reset();
    if (r.runs)
        r.runs->context.stop();  // the timer is still in it
}

TEMPLATE_TEST_CASE("draining: clients that come meanwhile do not wait for it", "", pool<blocking>,
                   pool<awaited_drain<awaited>>, per_client<awaited_drain<plain>>,
                   per_client<side_by_side>, on_program<awaited_drain<awaited>>)
{
    TestType r;
    r.at.does = journal::kind::held;
    r.add("a");
    r.join("a").disconnect();
    REQUIRE(r.at.first(1).size() == 1);
    r.join("a").disconnect();  // the next call waits for the first
    r.at.await_left(2);
    auto client = r.join("a");
    CHECK(r.at.all().size() == 1);
    client.disconnect();
    r.at.await_left(3);
    r.at.release();
    CHECK(r.at.first(2)[1] == "a: last client left");
    r.stop();
    CHECK(r.at.all().back() == "a: stopped");
    CHECK(r.at.all().size() == 3);
}

TEMPLATE_TEST_CASE("draining: with serialize_all, clients that come meanwhile wait for it", "",
                   pool<in_turn>, per_client<sync_drain<plain>>, pool<sync_drain<plain>>)
{
    TestType r;
    r.at.does = journal::kind::held;
    r.add("a");
    r.join("a").disconnect();
    REQUIRE(r.at.first(1).size() == 1);
    auto client = connect(*r.server);
    client.greet();
    client.send_option(proto::option::go, raw_client::info_data("a"));
    std::thread releasing{[&] {
        // Long enough for a server that does not wait.
        std::this_thread::sleep_for(std::chrono::milliseconds{20});
        r.at.add("released");
        r.at.release();
    }};
    while (client.receive_answer().type != proto::option_reply::ack)
        ;
    CHECK(client.read(0, 512));
    r.at.add("read");
    releasing.join();
    CHECK(r.at.all() == lines{"a: last client left", "released", "read"});
}

TEMPLATE_TEST_CASE("draining: of exports that were looked up, those that clients use", "",
                   pool<sync_drain<plain>>, per_client<awaited_drain<plain>>,
                   on_program<awaited_drain<awaited>>)
{
    TestType r;
    std::map<std::string, std::shared_ptr<typename TestType::backend>, std::less<>> store;
    for (const std::string name : {"asked", "idle", "removed", "used"})
        store.emplace(name,
                      std::make_shared<typename TestType::backend>(
                          typename TestType::backend{{{&r.at, name}}}));
    r.exports->on_lookup([&](std::string_view name, const nbd::client&) {
        const auto found = store.find(name);
        return found == store.end() ? nullptr : found->second;
    });
    auto asks = connect(*r.server);
    asks.greet();
    std::ignore = asks.ask(proto::option::info, raw_client::info_data("asked"));
    auto idle = r.join("idle");
    idle.disconnect();
    CHECK(r.at.first(1) == lines{"idle: last client left"});
    auto removed = r.join("removed");
    CHECK(r.exports->remove("removed"));
    removed.disconnect();
    CHECK(r.at.first(2)[1] == "removed: removed");
    auto used = r.join("used");
    r.stop();
    CHECK(r.at.all() == lines{"idle: last client left", "removed: removed", "used: stopped"});
}

TEMPLATE_TEST_CASE("draining: servers that share an export", "", per_client<sync_drain<plain>>,
                   pool<awaited_drain<awaited>>, on_program<awaited_drain<awaited>>)
{
    TestType r;
    r.add("a");
    auto other = r.make();
    auto here = r.join("a");
    raw_client there{other->local_endpoint()};
    there.go("a");
    there.disconnect();
    r.at.await_left(1);
    while (!other->connections().empty())  // counted as a client of the export until then
        std::this_thread::yield();
    CHECK(r.at.all().empty());
    r.stop();
    CHECK(r.at.all() == lines{"a: stopped"});
    CHECK(r.exports->remove("a"));
    CHECK(r.at.first(2)[1] == "a: removed");  // by the other server
    other->stop();
    other->wait();
    CHECK(r.at.all().size() == 2);
}

TEMPLATE_TEST_CASE("draining: a call that the policy does not make goes to the observer", "",
                   (row<sync_drain<plain>, dropping>), (row<awaited_drain<plain>, dropping>))
{
    const auto dropped = std::make_error_code(std::errc::operation_canceled).message();
    TestType r;
    r.add("a");
    auto client = r.join("a");
    r.at.drops = true;
    client.disconnect();
    CHECK(r.at.first(1) == lines{"error of a, last client left: " + dropped});
    r.at.drops = false;
    r.join("a").disconnect();
    CHECK(r.at.first(2)[1] == "a: last client left");
    r.at.drops = true;
    r.stop();
    CHECK(r.at.all().size() == 3);
    CHECK(r.at.all().back() == "error of a, stopped: " + dropped);
}

TEMPLATE_TEST_CASE("draining: at the end, at most 64 calls run at a time", "",
                   per_client<side_by_side>, per_client<awaited_drain<plain>>,
                   pool<awaited_drain<awaited>>, on_program<awaited_drain<awaited>>)
{
    TestType r;
    r.at.does = journal::kind::held;
    for (int i = 0; i < 200; ++i)
        r.add(std::to_string(i));
    std::thread stopping{[&] { r.stop(); }};
    std::ignore = r.at.first(64);
    r.at.release();
    stopping.join();
    CHECK(r.at.all().size() == 200);
    CHECK(r.at.most() == 64);
}

TEST_CASE("draining: calls that drain_grace leaves no time for are not made")
{
    pool<cancellable> r{std::chrono::seconds{2}};  // 64 calls begin in that time
    r.at.does = journal::kind::never;
    for (int i = 0; i < 100; ++i)
        r.add(std::to_string(i));
    r.stop();
    const auto all = r.at.all();
    const auto ending_with = [&](std::string_view text) {
        return std::count_if(all.begin(), all.end(),
                             [&](const auto& line) { return line.ends_with(text); });
    };
    CHECK(ending_with(": timed out") == 100);
    CHECK(ending_with(": stopped") == 64);
}

TEST_CASE("draining: the cost of the end is in proportion to the exports")
{
    const auto cost = [](int exports) {
        pool<sync_drain<plain>> r;
        for (int i = 0; i < exports; ++i)
            r.add(std::to_string(i));
        const auto before = std::clock();  // processor time
        r.stop();
        const auto after = std::clock();
        CHECK(r.at.all().size() == static_cast<std::size_t>(exports));
        return after - before;
    };
    std::ignore = cost(1'000);  // the first one is slower
    const auto few = cost(1'000);
    const auto many = cost(16'000);
    CAPTURE(few, many);
    CHECK(many < 64 * few);
}

TEST_CASE("draining: a server that was not started makes no call")
{
    journal at;
    {
        nbd::server<nbd::unix_transport, opens> server{somewhere<nbd::unix_transport>()};
        server.exports().add("a", opens{{&at, "a"}});
        server.exports().add("b", opens{{&at, "b"}});
        server.exports().remove("b");
    }
    CHECK(at.all().empty());
}

TEST_CASE("draining: the backend that has `open`")
{
    journal at;
    nbd::server<nbd::unix_transport, opens, nbd::per_client_threads, watcher> server{
        somewhere<nbd::unix_transport>(), {}, {}, {&at}};
    server.exports().add("a", opens{{&at, "a"}});
    server.start();
    auto client = connect(server);
    client.go("a");
    client.disconnect();
    CHECK(at.first(1) == lines{"a: last client left"});
    server.stop();
    CHECK(at.all().back() == "a: stopped");
}

namespace {

/// An executor of the program that runs nothing until it is told to.
struct late_store {
    boost::asio::io_context context{1};
};
/// `drain` waits on an executor that resumes it after the end of the server, if at all.
struct drains_elsewhere : base {
    using executor = policy::executor_type;
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    late_store* store = nullptr;

    static policy::awaitable<void> line(journal* at)
    {
        at->add("stored");
        co_return;
    }
    policy::awaitable<void> read(std::uint64_t, std::span<std::byte>) { co_return; }
    policy::awaitable<void> drain(drain_reason)
    {
        auto* const to = at;
        to->add("drain");
        co_await nbd::on(store->context.get_executor(), line(to));
        to->add("resumed");
    }
};
/// What it leaves on its client's executor waits there.
struct leaves_elsewhere : base {
    late_store* store = nullptr;

    policy::awaitable<void> read(std::uint64_t, std::span<std::byte>)
    {
        const auto left = [](journal* to, late_store* on) -> policy::awaitable<void> {
            to->add("left");
            co_await nbd::on(on->context.get_executor(), drains_elsewhere::line(to));
            to->add("resumed");
        };
        boost::asio::co_spawn(co_await boost::asio::this_coro::executor, left(at, store),
                              boost::asio::detached);
    }
};

}  // namespace

TEMPLATE_TEST_CASE("draining: what waits on another executor may outlive the server", "",
                   pool<drains_elsewhere>, per_client<drains_elsewhere>, pool<leaves_elsewhere>,
                   per_client<leaves_elsewhere>)
{
    constexpr bool drains = std::is_same_v<typename TestType::backend, drains_elsewhere>;
    late_store store;
    journal at;  // outlives the server
    const bool answers = GENERATE(true, false);
    {
        TestType r{soon};
        typename TestType::backend disk;
        disk.at = &at;
        disk.name = "a";
        disk.store = &store;
        r.exports->add("a", std::move(disk));
        r.join("a").disconnect();
        std::ignore = at.first(1);
        r.stop();
        r.server.reset();
    }
    CHECK(at.all() == lines{drains ? "drain" : "left"});
    if (answers) {
        store.context.run();
        CHECK(at.all().back() == "stored");
    }
}
