// SPDX-License-Identifier: MIT
// Backends whose `open` and `resize` are awaited, as those of a remote store are.
#include "grid/chunk_client.hpp"
#include "grid/waiting.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <stdexcept>
#include <thread>
#include <type_traits>
#include <vector>

namespace {

using namespace grid;
using proto::option;
using proto::option_reply;
using context_executor = boost::asio::io_context::executor_type;

constexpr std::uint64_t mib = 1 << 20;

/// Resumes the coroutine that awaits it on a new thread.
template <class Executor>
boost::asio::awaitable<void, Executor> on_another_thread()
{
    boost::asio::use_awaitable_t<Executor> token;
    co_await boost::asio::async_initiate<boost::asio::use_awaitable_t<Executor>, void()>(
        [](auto handler) {
            std::thread{[h = std::make_shared<decltype(handler)>(std::move(handler))] {
                std::move (*h)();
            }}.detach();
        },
        token);
}

/// State that a test and the stores of its server share.
struct opens {
    switchboard board;
    std::atomic<int> opened{0};
    std::atomic<int> closed{0};
    std::atomic<int> errors{0};
    std::atomic<bool> refuses{false};
    std::atomic<bool> moves{false};  ///< calls complete on another thread
    std::string error;               ///< under board.mutex

    [[nodiscard]] bool await_inside(int n)
    {
        return board.await([&] { return board.inside == n; });
    }
};

/// A client's state, which counts its openings and closings.
class counted {
public:
    explicit counted(opens& o) : opens_{&o} { ++opens_->opened; }
    counted(counted&& other) noexcept : opens_{std::exchange(other.opens_, nullptr)} {}
    counted& operator=(counted&&) = delete;
    ~counted()
    {
        if (opens_ != nullptr)
            ++opens_->closed;
    }
    [[nodiscard]] std::uint64_t size() const { return mib; }

private:
    opens* opens_;
};

/// `open` waits while offset 1 of the board is closed.
template <class Executor, class State>
class store {
public:
    explicit store(opens& o) : opens_{&o} {}

    boost::asio::awaitable<State, Executor> open(const nbd::client&)
    {
        opens_->board.enter("open");
        co_await until_open<Executor>(opens_->board, 1);
        if (opens_->moves)
            co_await on_another_thread<Executor>();
        opens_->board.leave();
        if (opens_->refuses)
            throw std::system_error{EACCES, std::generic_category(), "a secret"};
        co_return State{*opens_};
    }

private:
    opens* opens_;
};

template <class Executor>
struct awaited_state : counted {
    static constexpr auto concurrency = nbd::concurrency::serialize_client;
    using counted::counted;
    boost::asio::awaitable<void, Executor> read(std::uint64_t, std::span<std::byte> to)
    {
        std::fill(to.begin(), to.end(), std::byte{7});
        co_return;
    }
};
struct plain_state : counted {
    static constexpr auto concurrency = nbd::concurrency::serialize_client;
    using counted::counted;
    void read(std::uint64_t, std::span<std::byte> to)
    {
        std::fill(to.begin(), to.end(), std::byte{7});
    }
};
template <class Executor>
struct serialized_state : awaited_state<Executor> {
    static constexpr auto concurrency = nbd::concurrency::serialize_all;
    using awaited_state<Executor>::awaited_state;
};

struct listens {
    opens* shared = nullptr;
    void at_option_error(const nbd::client&, const nbd::protocol::option_header&,
                         const nbd::failure& why)
    {
        const std::lock_guard lock{shared->board.mutex};
        shared->error = why.message();
        ++shared->errors;
    }
    void at_disconnect(const nbd::client&, std::error_code)
    {
        const std::lock_guard lock{shared->board.mutex};
        ++shared->board.departed;
        shared->board.changed.notify_all();
    }
};

/// A server of a store with the exports "disk" and "other", and the context that on_executor needs.
template <class Backend, class Policy>
struct running {
    using server_type = nbd::server<nbd::unix_transport, Backend, Policy, listens>;
    static constexpr bool hosted = std::is_same_v<Policy, nbd::on_executor<>>;

    explicit running(nbd::settings limits = {}) : server{made(limits)}
    {
        server->exports().add("disk", Backend{shared});
        server->exports().add("other", Backend{shared});
        server->start();
        if constexpr (hosted)
            thread = std::thread{[this] { io.run(); }};
    }
    ~running()
    {
        shared.board.open(1);
        server->stop();
        if (thread.joinable())
            thread.join();
    }
    [[nodiscard]] std::unique_ptr<server_type> made(const nbd::settings& limits)
    {
        if constexpr (hosted)
            return std::make_unique<server_type>(
                io.get_executor(), somewhere<nbd::unix_transport>(), limits, listens{&shared});
        else if constexpr (std::is_same_v<Policy, nbd::strand_pool>)
            return std::make_unique<server_type>(somewhere<nbd::unix_transport>(), limits,
                                                 nbd::strand_pool{1}, listens{&shared});
        else
            return std::make_unique<server_type>(somewhere<nbd::unix_transport>(), limits, Policy{},
                                                 listens{&shared});
    }
    [[nodiscard]] std::future<bool> going(std::string_view name = "disk")
    {
        return std::async(std::launch::async, [this, name] {
            auto client = connect(*server);
            return client.go(name).size == mib && client.read(0, 512) == bytes(512, std::byte{7});
        });
    }

    opens shared;
    boost::asio::io_context io;
    std::unique_ptr<server_type> server;
    std::thread thread;
};

template <class Backend, class Policy>
struct combination {
    using type = running<Backend, Policy>;
};
template <class Executor>
using awaited_store = store<Executor, awaited_state<Executor>>;
using plain_store = store<context_executor, plain_state>;

}  // namespace

#define ALL_THAT_AWAIT_OPEN                                                                        \
    (combination<awaited_store<context_executor>, nbd::strand_pool>),                              \
        (combination<awaited_store<boost::asio::any_io_executor>, nbd::per_client_threads>),       \
        (combination<awaited_store<context_executor>, nbd::on_executor<>>),                        \
        (combination<plain_store, nbd::strand_pool>)

TEMPLATE_TEST_CASE("awaited open: a client is served by the returned state, which is closed once",
                   "", ALL_THAT_AWAIT_OPEN)
{
    typename TestType::type s;
    s.shared.moves = GENERATE(false, true);
    CHECK(s.going().get());
    {
        auto client = connect(*s.server);
        client.greet();
        for (int i = 0; i < 5; ++i)
            CHECK(client.ask(option::info, raw_client::info_data("disk")).back().type
                  == option_reply::ack);
        CHECK(s.shared.opened == 2);
        std::ignore = client.ask(option::info, raw_client::info_data("other"));
        CHECK(s.shared.opened == 3);
        std::ignore = client.ask(option::go, raw_client::info_data("disk"));
        CHECK(s.shared.opened == 4);
        CHECK(client.read(0, 512));
    }
    s.server->stop();
    s.server->wait();
    CHECK(s.shared.closed == 4);
}

TEMPLATE_TEST_CASE("awaited open: other clients are served meanwhile", "", ALL_THAT_AWAIT_OPEN)
{
    typename TestType::type s;
    auto client = connect(*s.server);
    client.go("disk");
    s.shared.board.close({1});
    auto one = s.going();
    auto two = s.going();
    REQUIRE(s.shared.await_inside(2));  // both at the same time
    for (int i = 0; i < 10; ++i)
        CHECK(client.read(0, 512));
    s.shared.board.open(1);
    CHECK(one.get());
    CHECK(two.get());
}

TEMPLATE_TEST_CASE("awaited open: an exception refuses the client, and the observer gets its text",
                   "", ALL_THAT_AWAIT_OPEN)
{
    typename TestType::type s;
    s.shared.refuses = true;
    auto client = connect(*s.server);
    client.greet();
    const auto answer = client.ask(option::go, raw_client::info_data("disk")).back();
    CHECK(answer.type == option_reply::err_policy);
    const std::string text(reinterpret_cast<const char*>(answer.data.data()), answer.data.size());
    CHECK(text.find("secret") == text.npos);
    CHECK(s.shared.errors == 1);
    CHECK(s.shared.error.find("secret") != std::string::npos);
    s.shared.refuses = false;
    CHECK(client.ask(option::go, raw_client::info_data("disk")).back().type == option_reply::ack);
    CHECK(s.shared.opened == 1);
}

TEMPLATE_TEST_CASE("awaited open: it completes although the client leaves", "", ALL_THAT_AWAIT_OPEN)
{
    typename TestType::type s;
    s.shared.board.close({1});
    {
        auto client = connect(*s.server);
        client.greet();
        client.send_option(option::go, raw_client::info_data("disk"));
        REQUIRE(s.shared.await_inside(1));
    }
    auto stopping = std::async(std::launch::async, [&] {
        s.server->stop();
        s.server->wait();
    });
    CHECK(s.shared.opened == 0);
    s.shared.board.open(1);
    stopping.get();
    CHECK(s.shared.opened == 1);
    CHECK(s.shared.closed == 1);
}

namespace {
struct cancellable_store : store<context_executor, plain_state> {
    static constexpr bool cancellable = true;
    using store::store;
};
}  // namespace

TEMPLATE_TEST_CASE("awaited open: it is cancelled if that is promised", "",
                   (combination<cancellable_store, nbd::strand_pool>),
                   (combination<cancellable_store, nbd::on_executor<>>))
{
    nbd::settings limits;
    limits.stop_grace = std::chrono::milliseconds{100};
    typename TestType::type s{limits};
    s.shared.moves = GENERATE(false, true);
    CHECK(s.going().get());
    REQUIRE(s.shared.board.await([&] { return s.shared.board.departed == 1; }));
    s.shared.board.close({1});
    {
        auto client = connect(*s.server);
        client.greet();
        client.send_option(option::go, raw_client::info_data("disk"));
        REQUIRE(s.shared.await_inside(1));
    }
    // The client has left.
    REQUIRE(s.shared.board.await([&] { return s.shared.board.departed == 2; }));
    auto client = connect(*s.server);
    client.greet();
    client.send_option(option::go, raw_client::info_data("disk"));
    REQUIRE(s.shared.await_inside(2));  // a cancelled `open` does not count itself out
    s.server->stop();
    s.server->wait();
    CHECK(client.closed());
    CHECK(s.shared.opened == 1);
}

TEST_CASE("awaited open: without a promise it is serialized with all other calls")
{
    running<store<context_executor, serialized_state<context_executor>>, nbd::strand_pool> s;
    s.shared.board.close({1});
    std::vector<std::future<bool>> clients;
    for (int i = 0; i < 4; ++i)
        clients.push_back(s.going());
    REQUIRE(s.shared.await_inside(1));
    s.shared.board.open(1);
    for (auto& c : clients)
        CHECK(c.get());
    CHECK(s.shared.board.most == 1);
    CHECK(s.shared.opened == 4);
}

// --- resize -------------------------------------------------------------------------------------

namespace {

/// `resize` waits while offset 1 of the board is closed, and fails over 4 MiB.
template <class Executor, class Outcome = std::error_code>
class resizable {
public:
    static constexpr auto concurrency = nbd::concurrency::parallel;
    explicit resizable(opens& o) : opens_{&o} {}

    [[nodiscard]] std::uint64_t size() const { return mib; }
    boost::asio::awaitable<void, Executor> read(std::uint64_t, std::span<std::byte> to)
    {
        std::fill(to.begin(), to.end(), std::byte{7});
        co_return;
    }
    boost::asio::awaitable<void, Executor> write(std::uint64_t, std::span<const std::byte>)
    {
        co_return;
    }
    boost::asio::awaitable<Outcome, Executor> resize(std::uint64_t bytes)
    {
        opens_->board.enter("resize " + std::to_string(bytes / mib));
        co_await until_open<Executor>(opens_->board, 1);
        if (opens_->moves)
            co_await on_another_thread<Executor>();
        opens_->board.leave();
        if (opens_->refuses)
            throw std::runtime_error{"resize throws"};
        if constexpr (!std::is_void_v<Outcome>)
            co_return bytes > 4 * mib ? std::make_error_code(std::errc::no_space_on_device)
                                      : std::error_code{};
    }

private:
    opens* opens_;
};

template <class Disk, class Policy>
struct resizing : running<Disk, Policy> {
    explicit resizing(nbd::settings limits = {}) : running<Disk, Policy>{limits}
    {
        this->server->exports().emplace("allowed", {.allow_resize = true}, this->shared);
        runner = std::thread{[this] {
            const auto guard = boost::asio::make_work_guard(mine);
            mine.run();
        }};
    }
    ~resizing()
    {
        this->shared.board.open(1);
        mine.stop();
        runner.join();
    }
    std::future<std::error_code> resize(std::string_view name, std::uint64_t size)
    {
        return this->server->exports().async_resize(mine.get_executor(), name, size,
                                                    boost::asio::use_future);
    }
    std::uint64_t size(std::string_view name = "disk")
    {
        auto client = connect(*this->server);
        return client.go(name).size;
    }

    boost::asio::io_context mine;
    std::thread runner;
};

}  // namespace

#define ALL_THAT_AWAIT_RESIZE                                                                      \
    (resizing<resizable<context_executor>, nbd::strand_pool>),                                     \
        (resizing<resizable<boost::asio::any_io_executor, nbd::failure>,                           \
                  nbd::per_client_threads>),                                                       \
        (resizing<resizable<context_executor>, nbd::on_executor<>>)

TEMPLATE_TEST_CASE("awaited resize: by the program, as an asynchronous operation", "",
                   ALL_THAT_AWAIT_RESIZE)
{
    TestType s;
    s.shared.moves = GENERATE(false, true);
    CHECK_FALSE(s.resize("disk", 2 * mib).get());
    CHECK(s.size() == 2 * mib);
    CHECK(s.resize("disk", 5 * mib).get() == std::errc::no_space_on_device);
    CHECK(s.resize("disk", std::uint64_t{1} << 63).get() == std::errc::invalid_argument);
    CHECK(s.resize("nosuch", mib).get() == nbd::errc::unknown_export);
    s.shared.refuses = true;
    CHECK(s.resize("disk", mib).get() == std::errc::io_error);
    CHECK(s.size() == 2 * mib);
}

TEMPLATE_TEST_CASE("awaited resize: calls for one export run one at a time, in order", "",
                   ALL_THAT_AWAIT_RESIZE)
{
    TestType s;
    s.shared.board.close({1});
    auto first = s.resize("disk", 2 * mib);
    REQUIRE(s.shared.await_inside(1));
    auto second = s.resize("disk", 3 * mib);
    auto elsewhere = s.resize("other", 4 * mib);
    REQUIRE(s.shared.await_inside(2));
    s.shared.board.open(1);
    CHECK_FALSE(first.get());
    CHECK_FALSE(second.get());
    CHECK_FALSE(elsewhere.get());
    CHECK(s.size() == 3 * mib);
    CHECK(s.shared.board.most == 2);
}

TEMPLATE_TEST_CASE("awaited resize: the handler runs on its associated executor", "",
                   (resizing<resizable<context_executor>, nbd::strand_pool>))
{
    TestType s;
    boost::asio::io_context mine;
    bool called = false;
    s.server->exports().async_resize(
        s.mine.get_executor(), "disk", 2 * mib,
        boost::asio::bind_executor(mine.get_executor(), [&](std::error_code failed) {
            called = mine.get_executor().running_in_this_thread() && !failed;
        }));
    mine.run_for(std::chrono::seconds{20});
    CHECK(called);
}

TEMPLATE_TEST_CASE("P67: an awaited RESIZE of a client", "", ALL_THAT_AWAIT_RESIZE)
{
    TestType s;
    s.shared.moves = GENERATE(false, true);
    auto client = connect(*s.server);
    CHECK(client.go("allowed").has(proto::transmission_flag::send_resize));
    CHECK(client.request(command::resize, 2 * mib, 0) == error_value::none);
    CHECK(client.read(2 * mib - 512, 512));
    CHECK(client.request(command::resize, 5 * mib, 0) == error_value::enospc);
    CHECK(client.read(2 * mib - 512, 512));
    CHECK(client.request(command::resize, mib, 0) == error_value::none);
    CHECK(client.request(command::read, 2 * mib - 512, 512) == error_value::enospc);
    s.shared.refuses = true;
    CHECK(client.request(command::resize, 3 * mib, 0) == error_value::eio);
    CHECK(s.size("allowed") == mib);
    auto other = connect(*s.server);
    CHECK_FALSE(other.go("disk").has(proto::transmission_flag::send_resize));
    CHECK(other.request(command::resize, 2 * mib, 0) != error_value::none);
}

TEMPLATE_TEST_CASE("awaited resize: it completes although the client leaves", "",
                   ALL_THAT_AWAIT_RESIZE)
{
    TestType s;
    s.shared.board.close({1});
    {
        auto client = connect(*s.server);
        client.go("allowed");
        client.send_request({.command = command::resize, .cookie = 1, .offset = 2 * mib});
        REQUIRE(s.shared.await_inside(1));
    }
    s.shared.board.open(1);
    REQUIRE(s.shared.await_inside(0));
    CHECK(s.resize("allowed", 3 * mib).get() == std::error_code{});
    CHECK(s.size("allowed") == 3 * mib);
}

namespace {
struct cancellable_disk : resizable<context_executor> {
    static constexpr bool cancellable = true;
    using resizable::resizable;
};
}  // namespace

TEST_CASE("awaited resize: a RESIZE of a client is cancelled if that is promised")
{
    nbd::settings limits;
    limits.stop_grace = std::chrono::milliseconds{100};
    resizing<cancellable_disk, nbd::strand_pool> s{limits};
    auto client = connect(*s.server);
    client.go("allowed");
    CHECK(client.request(command::resize, 2 * mib, 0) == error_value::none);
    s.shared.board.close({1});
    client.send_request({.command = command::resize, .cookie = 1, .offset = 3 * mib});
    REQUIRE(s.shared.await_inside(1));
    SECTION("when the client leaves")
    {
        client.close();
        REQUIRE(s.shared.board.await([&] { return s.shared.board.departed == 1; }));
        CHECK(s.size("allowed") == 2 * mib);
    }
    SECTION("when the server stops")
    {
        s.server->stop();
        CHECK(client.closed());
    }
}
