// SPDX-License-Identifier: MIT
// Exports that are found by a function of the program, and listed by another.
#include "grid/waiting.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>

#include <algorithm>
#include <atomic>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

using namespace grid;
using proto::option;
using proto::option_reply;
using context_executor = boost::asio::io_context::executor_type;
using strand = boost::asio::strand<context_executor>;

constexpr std::uint64_t kib = 1024;

/// A snapshot whose bytes are its number.
struct plain_snapshot {
    plain_snapshot(unsigned n, std::atomic<int>& a) : number{n}, alive{&a} { ++a; }
    plain_snapshot(plain_snapshot&&) = delete;
    ~plain_snapshot() { --*alive; }
    [[nodiscard]] std::uint64_t size() const { return kib; }
    void read(std::uint64_t, std::span<std::byte> to)
    {
        std::fill(to.begin(), to.end(), static_cast<std::byte>(number));
    }
    unsigned number;
    std::atomic<int>* alive;
};
template <class Executor>
struct awaited_snapshot : plain_snapshot {
    using plain_snapshot::plain_snapshot;
    boost::asio::awaitable<void, Executor> read(std::uint64_t, std::span<std::byte> to)
    {
        std::fill(to.begin(), to.end(), static_cast<std::byte>(number));
        co_return;
    }
};

/// Ten thousand snapshots. A client shares the object of a name with others that have it open.
template <class Snapshot>
class store {
public:
    static constexpr unsigned count = 10'000;

    [[nodiscard]] static std::string name_of(unsigned n) { return "snapshot-" + std::to_string(n); }
    [[nodiscard]] std::shared_ptr<Snapshot> find(std::string_view name)
    {
        const std::lock_guard lock{mutex_};
        ++lookups;
        for (unsigned n = 0; n < count; ++n) {
            if (name != name_of(n))
                continue;
            auto& known = open_[n];
            auto shared = known.lock();
            if (!shared) {
                ++made;
                known = shared = std::make_shared<Snapshot>(n, alive);
            }
            return shared;
        }
        return nullptr;
    }
    static void list(nbd::name_list& to)
    {
        for (unsigned n = 0; n < count; ++n)
            to.add(name_of(n));
    }

    std::atomic<int> alive{0};
    std::atomic<int> made{0};
    std::atomic<int> lookups{0};

private:
    std::mutex mutex_;
    std::map<unsigned, std::weak_ptr<Snapshot>> open_;
};

struct listens {
    switchboard* board = nullptr;
    void at_option_error(const nbd::client&, const nbd::protocol::option_header&,
                         const nbd::failure& why)
    {
        const std::lock_guard lock{board->mutex};
        board->story.push_back(why.message());
    }
    void at_disconnect(const nbd::client&, std::error_code)
    {
        const std::lock_guard lock{board->mutex};
        ++board->departed;
        board->changed.notify_all();
    }
};

template <class Backend, class Policy>
struct running {
    static constexpr bool hosted = requires(const Policy& p) { p.inner_executor(); };
    using snapshot = Backend;
    using policy = Policy;

    running()
    {
        server.start();
        if constexpr (hosted)
            thread = std::thread{[this] { io.run(); }};
    }
    ~running()
    {
        board.open(1);
        server.stop();
        if (thread.joinable())
            thread.join();
    }
    [[nodiscard]] Policy made()
    {
        if constexpr (!hosted)
            return Policy{};
        else if constexpr (Policy::is_strand)
            return Policy{boost::asio::make_strand(io)};
        else
            return Policy{io};
    }
    /// Waits while offset 1 of the board is closed.
    template <class Executor>
    boost::asio::awaitable<void, Executor> turn(std::string what)
    {
        board.enter(what);
        co_await until_open<Executor>(board, 1);
        board.leave();
    }
    template <class Executor>
    void await_lookups()
    {
        server.exports().on_lookup(
            [this](std::string_view name, const nbd::client&)
                -> boost::asio::awaitable<std::shared_ptr<Backend>, Executor> {
                co_await turn<Executor>("lookup");
                if (name == "ill")
                    throw std::system_error{EACCES, std::generic_category(), "a secret"};
                co_return snapshots.find(name);
            });
        server.exports().on_list(
            [this](nbd::name_list& to) -> boost::asio::awaitable<void, Executor> {
                co_await turn<Executor>("list");
                snapshots.list(to);
            });
    }
    /// Whether a client reads the bytes of the snapshot.
    [[nodiscard]] std::future<bool> reads(unsigned n)
    {
        return std::async(std::launch::async, [this, n] {
            auto c = connect(server);
            c.go(store<Backend>::name_of(n));
            return c.read(0, kib) == bytes(kib, static_cast<std::byte>(n));
        });
    }
    [[nodiscard]] std::vector<std::string> listed()
    {
        auto c = connect(server);
        c.greet();
        std::vector<std::string> names;
        for (const auto& a : c.ask(option::list)) {
            proto::reader in{a.data};
            if (a.type == option_reply::server)
                names.emplace_back(in.take_string(in.take<std::uint32_t>()));
        }
        return names;
    }

    switchboard board;
    store<Backend> snapshots;
    boost::asio::io_context io;
    nbd::server<nbd::unix_transport, Backend, Policy, listens> server{
        {.listen = somewhere<nbd::unix_transport>(), .policy = made(), .observer = {&board}}};
    std::thread thread;
};

template <class Backend, class Policy, class Executor>
struct combination {
    using type = running<Backend, Policy>;
    using executor = Executor;
};

}  // namespace

// The last one is the executor of the functions that are awaited.
#define ALL_THAT_LOOK_UP                                                                           \
    (combination<plain_snapshot, nbd::per_client_threads, context_executor>),                      \
        (combination<plain_snapshot, nbd::strand_pool, context_executor>),                         \
        (combination<awaited_snapshot<context_executor>, nbd::per_client_threads,                  \
                     boost::asio::any_io_executor>),                                               \
        (combination<plain_snapshot, nbd::on_executor<>, context_executor>),                       \
        (combination<plain_snapshot, nbd::on_executor<strand>, boost::asio::any_io_executor>)

TEMPLATE_TEST_CASE("lookup: ten thousand snapshots, none of which was added", "", ALL_THAT_LOOK_UP)
{
    typename TestType::type s;
    if (GENERATE(false, true)) {
        s.template await_lookups<typename TestType::executor>();
    } else {
        s.server.exports().on_lookup(
            [&](std::string_view name, const nbd::client&) { return s.snapshots.find(name); });
        s.server.exports().on_list([&](nbd::name_list& to) { s.snapshots.list(to); });
    }
    SECTION("clients open them, and share the object of a name")
    {
        auto first = connect(s.server);
        first.go(s.snapshots.name_of(7));
        std::vector<std::future<bool>> clients;
        for (unsigned i = 0; i < 4; ++i) {
            clients.push_back(s.reads(7));
            clients.push_back(s.reads(9'999 - i));
        }
        for (auto& c : clients)
            CHECK(c.get());
        CHECK(s.snapshots.made == 5);
        CHECK(first.read(0, kib) == bytes(kib, std::byte{7}));
    }
    SECTION("one that does not exist")
    {
        auto c = connect(s.server);
        c.greet();
        CHECK(c.ask(option::go, raw_client::info_data("nosuch")).back().type
              == option_reply::err_unknown);
        CHECK(c.ask(option::go, raw_client::info_data(s.snapshots.name_of(3))).back().type
              == option_reply::ack);
        CHECK(c.read(0, 1));
        CHECK(s.snapshots.lookups == 2);
    }
    SECTION("LIST names them all")
    {
        const auto names = s.listed();
        std::vector<std::string> expected;
        for (unsigned n = 0; n < s.snapshots.count; ++n)
            expected.push_back(s.snapshots.name_of(n));
        std::sort(expected.begin(), expected.end());
        CHECK(names == expected);
        CHECK(s.snapshots.alive == 0);
    }
    s.server.stop();
    s.server.wait();
    CHECK(s.snapshots.alive == 0);
}

TEMPLATE_TEST_CASE("lookup: a slow one that is awaited delays no other client", "",
                   ALL_THAT_LOOK_UP)
{
    typename TestType::type s;
    s.template await_lookups<typename TestType::executor>();
    auto client = connect(s.server);
    client.go(s.snapshots.name_of(1));
    s.board.close({1});
    auto one = s.reads(2);
    auto two = s.reads(2);
    auto list = std::async(std::launch::async, [&] { return s.listed().size(); });
    REQUIRE(s.board.await([&] { return s.board.inside == 3; }));
    for (int i = 0; i < 10; ++i)
        CHECK(client.read(0, 512));
    s.board.open(1);
    CHECK(one.get());
    CHECK(two.get());
    CHECK(list.get() == s.snapshots.count);
}

TEMPLATE_TEST_CASE("lookup: an exception refuses the client, and the observer gets its text", "",
                   ALL_THAT_LOOK_UP)
{
    typename TestType::type s;
    s.template await_lookups<typename TestType::executor>();
    s.board.story.clear();
    auto c = connect(s.server);
    c.greet();
    const auto answer = c.ask(option::go, raw_client::info_data("ill")).back();
    CHECK(answer.type == option_reply::err_policy);
    const std::string text(reinterpret_cast<const char*>(answer.data.data()), answer.data.size());
    CHECK(text.find("secret") == text.npos);
    {
        const std::lock_guard lock{s.board.mutex};
        CHECK(s.board.story.back().find("a secret") != std::string::npos);
    }
    CHECK(c.ask(option::go, raw_client::info_data(s.snapshots.name_of(0))).back().type
          == option_reply::ack);
}

TEMPLATE_TEST_CASE("lookup: it completes although the client leaves, and stop() waits for it", "",
                   ALL_THAT_LOOK_UP)
{
    typename TestType::type s;
    s.template await_lookups<typename TestType::executor>();
    s.board.close({1});
    {
        auto c = connect(s.server);
        c.greet();
        c.send_option(option::go, raw_client::info_data(s.snapshots.name_of(5)));
        REQUIRE(s.board.await([&] { return s.board.inside == 1; }));
    }
    auto stopping = std::async(std::launch::async, [&] {
        s.server.stop();
        s.server.wait();
    });
    CHECK(s.snapshots.lookups == 0);
    s.board.open(1);
    stopping.get();
    CHECK(s.snapshots.lookups == 1);
    CHECK(s.snapshots.alive == 0);
    CHECK(s.board.departed == 1);
}

TEMPLATE_TEST_CASE("lookup: a removal ends the requests of clients, and others look it up again",
                   "", ALL_THAT_LOOK_UP)
{
    typename TestType::type s;
    s.server.exports().on_lookup(
        [&](std::string_view name, const nbd::client&) { return s.snapshots.find(name); });
    const auto name = s.snapshots.name_of(1);
    auto one = connect(s.server);
    auto two = connect(s.server);
    auto other = connect(s.server);
    one.go(name);
    two.go(name);
    other.go(s.snapshots.name_of(2));
    CHECK(s.server.exports().remove(name));
    CHECK_FALSE(s.server.exports().remove(name));
    for (auto* const c : {&one, &two})
        CHECK(c->request(proto::command::read, 0, 512) == error_value::eshutdown);
    CHECK(other.read(0, 512));
    CHECK(s.reads(1).get());
}

TEMPLATE_TEST_CASE("lookup: a removal during a lookup does not reach what it finds", "",
                   ALL_THAT_LOOK_UP)
{
    typename TestType::type s;
    s.template await_lookups<typename TestType::executor>();
    s.board.close({1});
    auto one = s.reads(1);
    REQUIRE(s.board.await([&] { return s.board.inside == 1; }));
    CHECK_FALSE(s.server.exports().remove(s.snapshots.name_of(1)));
    s.board.open(1);
    CHECK(one.get());
}

TEST_CASE("lookup: the settings are those for the client that asks")
{
    running<plain_snapshot, nbd::strand_pool> s;
    std::atomic<bool> slow_disk{false};
    std::atomic<bool> names_agree{true};
    s.server.exports().on_lookup([&](std::string_view name, const nbd::client& who) {
        if (who.export_name != name)
            names_agree = false;
        return nbd::found_export<plain_snapshot>{s.snapshots.find(name), {.rotational = slow_disk}};
    });
    using nbd::protocol::transmission_flag::rotational;
    auto one = connect(s.server);
    CHECK((one.go(s.snapshots.name_of(1)).flags & rotational) == 0);
    slow_disk = true;
    auto two = connect(s.server);
    CHECK((two.go(s.snapshots.name_of(1)).flags & rotational) != 0);
    CHECK(s.snapshots.made == 1);
    CHECK(names_agree);
}

TEST_CASE("lookup: an awaitable of an executor that the clients do not have is refused with a text")
{
    running<plain_snapshot, nbd::on_executor<strand>> s;
    s.await_lookups<context_executor>();
    auto c = connect(s.server);
    c.greet();
    CHECK(c.ask(option::go, raw_client::info_data("x")).back().type == option_reply::err_unknown);
    const std::lock_guard lock{s.board.mutex};
    CHECK(s.board.story.back().find("boost::asio::awaitable<T> runs on any") != std::string::npos);
}

TEST_CASE("lookup: the context of the program is destroyed during a lookup")
{
    switchboard board;
    std::weak_ptr<int> held;
    {
        auto io = std::make_unique<boost::asio::io_context>();
        nbd::server<nbd::unix_transport, plain_snapshot, nbd::on_executor<>> server{
            *io, somewhere<nbd::unix_transport>()};
        auto holds = std::make_shared<int>(1);
        held = holds;
        server.exports().on_lookup(
            [&board, holds](std::string_view, const nbd::client&)
                -> boost::asio::awaitable<std::shared_ptr<plain_snapshot>, context_executor> {
                const auto kept = holds;
                boost::asio::basic_waitable_timer<
                    std::chrono::steady_clock, boost::asio::wait_traits<std::chrono::steady_clock>,
                    context_executor>
                    timer{co_await boost::asio::this_coro::executor, std::chrono::hours{1}};
                board.enter("lookup");
                co_await timer.async_wait(boost::asio::use_awaitable_t<context_executor>{});
                co_return nullptr;
            });
        holds.reset();
        server.start();
        auto c = connect(server);
        auto greeting = std::async(std::launch::async, [&] {
            c.greet();
            c.send_option(option::go, raw_client::info_data("x"));
        });
        while (board.inside == 0)
            io->run_one();
        greeting.get();
        io.reset();
        CHECK(c.closed());
    }
    CHECK(held.expired());
}
