// SPDX-License-Identifier: MIT
// How sessions with waiting backends end: clients that disconnect, are cut off or send too much,
// servers that stop, and calls that complete on another thread.
#include "grid/waiting.hpp"

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>

#include <functional>
#include <memory>
#include <stdexcept>
#include <thread>

#include <poll.h>

using namespace grid;

namespace {

/// Slow, and without write_zeroes: 4 GiB of zeroes take about ten seconds.
class endless_disk {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;

    explicit endless_disk(switchboard& s) : board_{&s} {}
    [[nodiscard]] std::uint64_t size() const { return std::uint64_t{1} << 46; }

protected:
    void wrote()
    {
        std::this_thread::sleep_for(std::chrono::microseconds{100});
        const std::lock_guard lock{board_->mutex};
        ++board_->most;
        board_->changed.notify_all();
    }
    switchboard* board_;
};
struct endless_blocking : endless_disk {
    static constexpr bool blocks = true;
    using endless_disk::endless_disk;
    void read(std::uint64_t, std::span<std::byte>) {}
    void write(std::uint64_t, std::span<const std::byte>) { wrote(); }
};
struct endless_in_order : endless_disk {
    using endless_disk::endless_disk;
    void read(std::uint64_t, std::span<std::byte>) {}
    void write(std::uint64_t, std::span<const std::byte>) { wrote(); }
};
struct endless_awaited : endless_disk {
    using awaited = boost::asio::awaitable<void, boost::asio::io_context::executor_type>;
    using endless_disk::endless_disk;
    awaited read(std::uint64_t, std::span<std::byte>) { co_return; }
    awaited write(std::uint64_t, std::span<const std::byte>)
    {
        wrote();
        co_return;
    }
};

/// Its calls complete on other threads, as with a library without executors.
class wandering_disk {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    using executor_type = boost::asio::io_context::executor_type;
    template <class T>
    using awaitable = boost::asio::awaitable<T, executor_type>;

    explicit wandering_disk(switchboard& s) : board_{&s} {}
    [[nodiscard]] std::uint64_t size() const { return board_->content.size(); }
    awaitable<void> read(std::uint64_t offset, std::span<std::byte> to)
    {
        co_await away();
        std::copy_n(board_->content.begin() + static_cast<std::ptrdiff_t>(offset), to.size(),
                    to.begin());
    }
    awaitable<void> write(std::uint64_t, std::span<const std::byte>)
    {
        co_await away();
        throw std::runtime_error{"thrown elsewhere"};
    }

private:
    awaitable<void> away()
    {
        co_await boost::asio::post(
            boost::asio::bind_executor(*threads_, boost::asio::use_awaitable_t<executor_type>{}));
    }
    switchboard* board_;
    std::shared_ptr<boost::asio::thread_pool> threads_ =
        std::make_shared<boost::asio::thread_pool>(3);
};

/// Stops its own server.
struct stopping_disk {
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool blocks = true;
    std::function<void()> stop;
    [[nodiscard]] std::uint64_t size() const { return 1 << 20; }
    void read(std::uint64_t, std::span<std::byte>) { stop(); }
};

struct wandering_one_at_a_time : wandering_disk {
    static constexpr nbd::concurrency concurrency = nbd::concurrency::serialize_all;
    using wandering_disk::wandering_disk;
};

template <class Backend, class Policy>
struct few {
    using backend = Backend;
    using policy = Policy;
    static Policy make()
    {
        if constexpr (std::is_same_v<Policy, nbd::strand_pool>)
            return Policy{1};
        else
            return {};
    }
};

}  // namespace

TEMPLATE_TEST_CASE("waiting: endless zeroes do not delay other clients, and end with their client",
                   "", (few<endless_blocking, nbd::strand_pool>),
                   (few<endless_in_order, nbd::strand_pool>),
                   (few<endless_in_order, nbd::per_client_threads>),
                   (few<endless_awaited, nbd::strand_pool>),
                   (few<endless_awaited, nbd::per_client_threads>))
{
    served<TestType> s;
    const bool stays = GENERATE(true, false);
    auto c = s.client();
    for (std::uint64_t i = 0; i < 3; ++i)
        ask(c, command::write_zeroes, i, 0, 0xffff'f000);
    REQUIRE(s.board.await([&] { return s.board.most > 10; }));
    int others = 0;
    // All clients share one thread. Not tried with blocking calls, which run on another thread.
    if (!std::is_same_v<TestType, few<endless_blocking, nbd::strand_pool>>) {
        auto other = s.client();
        CHECK(other.read(0, 4096));
        ++others;
    }
    if (!stays) {
        c.close();
        const auto departed = others + 1;
        REQUIRE(s.board.await([&] { return s.board.departed == departed; }));
        auto other = s.client();
        CHECK(other.read(0, 4096));
    }
    s.server.stop();
}

TEST_CASE("waiting: a backend call on a thread of the pool may stop the server")
{
    nbd::server<nbd::unix_transport, stopping_disk, nbd::strand_pool> server{
        somewhere<nbd::unix_transport>(), nbd::settings{}, nbd::strand_pool{2}};
    server.exports().add("disk", stopping_disk{[&] { server.stop(); }});
    server.start();
    raw_client c = connect(server);
    c.go("disk");
    CHECK(c.read(0, 512));
    CHECK(c.closed());
    server.wait();
}

TEMPLATE_TEST_CASE("waiting: the requests of a client that is cut off are cancelled", "",
                   (with<cancelling<awaited>, nbd::strand_pool>),
                   (with<cancelling<awaited>, nbd::per_client_threads>))
{
    enum cause { half_a_request, grace_is_over, closed_and_noticed };
    const auto because_of = GENERATE(half_a_request, grace_is_over, closed_and_noticed);
    CAPTURE(because_of);
    nbd::settings limits;
    limits.progress_timeout = std::chrono::milliseconds{because_of == half_a_request ? 300 : 0};
    limits.stop_grace = std::chrono::milliseconds{300};
    served<TestType> s{limits};
    s.board.close({512});
    auto c = s.client();
    ask(c, command::read, 512, 512, 512);
    REQUIRE(s.board.await([&] { return s.board.inside == 1; }));
    if (because_of == half_a_request) {
        c.send(bytes(5));
        REQUIRE(s.board.await([&] { return s.board.inside == 0; }));
    } else {
        c.disconnect();
    }
    if (because_of == closed_and_noticed) {
        c.close();
        const auto closing = [&] {
            const auto all = s.server.connections();
            return all.size() == 1 && all.front().state == nbd::connection_state::closing;
        };
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{20};
        while (!closing() && std::chrono::steady_clock::now() < end)
            std::this_thread::sleep_for(std::chrono::milliseconds{1});
        REQUIRE(closing());
        CHECK(s.board.inside == 1);
    }
    s.server.stop();
    CHECK(s.board.inside == 0);
    CHECK(s.board.cancelled == 1);
}

TEMPLATE_TEST_CASE("waiting: an idle client is disconnected, also after it was busy", "",
                   ALL_THAT_WAIT)
{
    nbd::settings limits;
    limits.idle_timeout = std::chrono::milliseconds{300};
    served<TestType> s{limits};
    auto c = s.client();
    const bool busy = GENERATE(false, true);
    if (busy)
        CHECK(c.read(512, 512));
    CHECK(c.closed());
    // A client whose request takes longer than idle_timeout is not idle.
    auto other = s.client();
    s.board.close({512});
    ask(other, command::read, 512, 512, 512);
    auto third = s.client();
    CHECK(third.closed());
    s.board.open(512);
    CHECK(take_read(other, s.board, 512) == 512);
}

TEMPLATE_TEST_CASE(
    "waiting: calls that complete on another thread after their client has disconnected", "",
    (with<wandering_disk, nbd::strand_pool>), (with<wandering_disk, nbd::per_client_threads>),
    (with<wandering_one_at_a_time, nbd::strand_pool>))
{
    served<TestType> s;
    for (int round = 0; round < 30; ++round) {
        auto c = s.client();
        for (std::uint64_t at = 0; at < 16; ++at)
            ask(c, command::read, at * 512, at * 512, 512);
        c.close();
    }
    REQUIRE(s.board.await([&] { return s.board.departed == 30; }));
    CHECK(s.client().read(0, 512));
    s.server.stop();
}

TEMPLATE_TEST_CASE(
    "waiting: all requests before DISC are carried out, also if the client closes at once", "",
    ALL_THAT_WAIT)
{
    nbd::settings limits;
    limits.requests_in_flight = 4;
    served<TestType> s{limits};
    s.board.close({0, 512, 1024, 1536});
    auto c = s.client();
    bytes batch;
    for (std::uint64_t at = 0; at < 4 * 512; at += 512)
        raw_client::append(batch,
                           {.command = command::write, .cookie = at, .offset = at, .length = 512},
                           pattern(512, 9));
    raw_client::append(batch, {.command = command::disc});
    c.send(batch);
    c.close();
    REQUIRE(s.board.await([&] { return s.board.inside == 4; }));
    for (std::uint64_t at = 0; at < 4 * 512; at += 512)
        s.board.open(at);
    REQUIRE(s.board.await([&] { return s.board.departed == 1; }));
    CHECK(s.board.cancelled == 0);
    const auto written = pattern(512, 9);
    for (std::ptrdiff_t at = 0; at < 4 * 512; at += 512)
        CHECK(std::equal(written.begin(), written.end(), s.board.content.begin() + at));
}

TEMPLATE_TEST_CASE("waiting: a call may complete on a thread of the backend", "",
                   (with<wandering_disk, nbd::strand_pool>),
                   (with<wandering_disk, nbd::per_client_threads>))
{
    served<TestType> s;
    auto c = s.client();
    for (int round = 0; round < 20; ++round) {
        for (std::uint64_t at = 0; at < 16; ++at)
            ask(c, command::read, at * 512, at * 512, 512);
        std::set<std::uint64_t> seen;
        for (int i = 0; i < 16; ++i)
            seen.insert(take_read(c, s.board, 512));
        CHECK(seen.size() == 16);
    }
    CHECK(c.request(command::write, 0, 512, 0, bytes(512)) == error_value::eio);
    CHECK(c.read(0, 512));
}

namespace {
/// Shrinks when the second piece of zeroes has been written.
struct shrinking : awaited {
    shrinking(switchboard& s, std::atomic<int>& w) : awaited{s}, writes{&w} {}
    awaitable<void> write(std::uint64_t offset, std::span<const std::byte>)
    {
        ++*writes;
        if (offset != 0) {
            if (const auto error = exports->resize("disk", 64 << 10))
                throw std::system_error{error};  // and the client gets another error than ENOSPC
        }
        co_return;
    }
    awaitable<std::error_code> trim(std::uint64_t offset, std::uint64_t length)
    {
        return awaited::trim(offset, length);
    }
    void resize(std::uint64_t) {}
    std::atomic<int>* writes;
    nbd::export_set<shrinking>* exports = nullptr;
};
}  // namespace

TEST_CASE("waiting: zeroes past an end that a resize has moved are not written")
{
    switchboard board;
    std::atomic<int> writes{0};
    nbd::server<nbd::unix_transport, shrinking, nbd::strand_pool> server{
        somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {}, board, writes)->exports = &server.exports();
    server.start();
    auto c = connect(server);
    c.go("disk");
    ask(c, command::write_zeroes, 1, 0, 1 << 20);
    CHECK(c.receive_reply().error == error_value::enospc);
    CHECK(writes == 2);
}

namespace {
/// Each READ leaves a coroutine on the client's executor, which ends after the client has left, and
/// one that waits for an hour.
class forgetful_disk : public awaited {
public:
    explicit forgetful_disk(switchboard& s) : awaited{s}, board{&s} {}
    awaitable<void> read(std::uint64_t, std::span<std::byte>)
    {
        const auto here = co_await boost::asio::this_coro::executor;
        boost::asio::co_spawn(here, pause(std::chrono::hours{1}), boost::asio::detached);
        boost::asio::co_spawn(here, outlive(board), boost::asio::detached);
    }

private:
    using executor = boost::asio::io_context::executor_type;
    using timer = boost::asio::basic_waitable_timer<
        std::chrono::steady_clock, boost::asio::wait_traits<std::chrono::steady_clock>, executor>;
    static awaitable<void> pause(std::chrono::steady_clock::duration time)
    {
        timer t{co_await boost::asio::this_coro::executor, time};
        co_await t.async_wait(boost::asio::use_awaitable_t<executor>{});
    }
    static awaitable<void> outlive(switchboard* board)
    {
        const auto gone = [&] {
            const std::lock_guard lock{board->mutex};
            return board->departed != 0;
        };
        while (!gone())
            co_await pause(std::chrono::milliseconds{1});
        board->enter("outlived");
    }
    switchboard* board;
};
}  // namespace

TEMPLATE_TEST_CASE("waiting: what a backend leaves on its client's executor does not keep the "
                   "client, and stop() does not wait for it",
                   "", (with<forgetful_disk, nbd::strand_pool>),
                   (with<forgetful_disk, nbd::per_client_threads>))
{
    nbd::settings limits;
    limits.max_connections = 1;
    served<TestType> s{limits};
    {
        auto c = s.client();
        CHECK(c.read(0, 512));
    }
    CHECK(s.board.await([&] { return s.board.departed == 1; }));
    CHECK(s.board.await([&] { return s.board.story == std::vector<std::string>{"outlived"}; }));
    CHECK(s.client().read(0, 512));  // the place is free
    s.server.stop();
}

TEMPLATE_TEST_CASE("waiting: the longest and the shortest time limits", "",
                   (with<awaited, nbd::per_client_threads>))
{
    const bool longest = GENERATE(true, false);
    const auto limit =
        longest ? std::chrono::milliseconds::max() : std::chrono::milliseconds::min();
    nbd::settings limits;
    for (auto* const each :
         {&limits.evict_idle_after, &limits.handshake_deadline, &limits.progress_timeout,
          &limits.send_timeout, &limits.stall_grace, &limits.idle_timeout, &limits.stop_grace})
        *each = limit;
    limits.busy_poll =
        longest ? std::chrono::microseconds::max() : std::chrono::microseconds::min();
    served<TestType> s{limits};
    auto idle = s.client();
    auto c = s.client();
    CHECK(c.read(0, 512));
    s.board.close({512});
    ask(c, command::read, 512, 512, 512);
    REQUIRE(s.board.await([&] { return s.board.inside == 1; }));
    std::thread stopping{[&] { s.server.stop(); }};
    CHECK(idle.closed());
    if (longest) {  // several ticks of the server's clock later
        ::pollfd reply{.fd = c.fd(), .events = POLLIN, .revents = 0};
        CHECK(::poll(&reply, 1, 1000) == 0);
    } else {
        CHECK(c.closed(1));
    }
    s.board.open(512);
    if (longest)
        CHECK(take_read(c, s.board, 512) == 512);
    stopping.join();
}

TEMPLATE_TEST_CASE(
    "waiting: a half-closed client gets all its replies, then the end of the stream (S06)", "",
    ALL_THAT_WAIT)
{
    served<TestType> s;
    s.board.close({0, 4096});
    auto c = s.client();
    ask(c, command::read, 0, 0, 512);
    ask(c, command::read, 4096, 4096, 512);
    REQUIRE(s.board.await([&] { return s.board.inside == 2; }));
    REQUIRE(::shutdown(c.fd(), SHUT_WR) == 0);
    s.board.open(0);
    CHECK(take_read(c, s.board, 512) == 0);
    s.board.open(4096);
    CHECK(take_read(c, s.board, 512) == 4096);
    CHECK(c.closed());
    CHECK(s.board.cancelled == 0);
}

namespace {
/// Its calls occupy the thread that makes them, until the test opens the offset.
struct busy_disk {
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;

    explicit busy_disk(switchboard& s) : board_{&s} {}
    [[nodiscard]] std::uint64_t size() const { return board_->content.size(); }

protected:
    void occupy(std::uint64_t offset)
    {
        board_->enter("read");
        std::ignore = board_->await([&] { return !board_->closed.contains(offset); });
        board_->leave();
    }
    switchboard* board_;
};
struct busy_blocking : busy_disk {
    static constexpr bool blocks = true;
    using busy_disk::busy_disk;
    void read(std::uint64_t offset, std::span<std::byte>) { occupy(offset); }
};
struct busy_awaited : busy_disk {
    using busy_disk::busy_disk;
    boost::asio::awaitable<void, boost::asio::io_context::executor_type> read(std::uint64_t offset,
                                                                              std::span<std::byte>)
    {
        occupy(offset);
        co_return;
    }
};
struct busy_callback : busy_disk {
    using busy_disk::busy_disk;
    void async_read(std::uint64_t offset, std::span<std::byte>, nbd::completion done)
    {
        occupy(offset);
        done();
    }
};
}  // namespace

TEMPLATE_TEST_CASE("waiting: READs of a client that has closed its connection are not begun", "",
                   (few<busy_blocking, nbd::strand_pool>), (few<busy_awaited, nbd::strand_pool>),
                   (few<busy_awaited, nbd::per_client_threads>),
                   (few<busy_callback, nbd::strand_pool>))
{
    served<TestType> s;
    s.board.close({0});
    auto other = s.client();
    for (std::size_t clients = 1; clients <= 3; ++clients) {
        auto c = s.client();
        bytes batch;
        for (std::uint64_t i = 0; i < 20; ++i)
            raw_client::append(batch, {.cookie = i, .length = 1 << 20});
        c.send(batch);
        REQUIRE(s.board.await([&] { return s.board.story.size() == clients; }));
        c.close();
        // Where calls have threads of their own, the strand learns of the end before it answers.
        if constexpr (std::is_same_v<TestType, few<busy_blocking, nbd::strand_pool>>) {
            for (int i = 0; i < 3; ++i)
                CHECK(other.request(command::read, std::uint64_t{1} << 40, 1)
                      == error_value::einval);
        }
        s.board.open(0);
        REQUIRE(s.board.await([&] { return s.board.departed == static_cast<int>(clients); }));
        CHECK(s.board.story.size() == clients);
        s.board.close({0});
    }
    s.board.open(0);
    CHECK(other.read(512, 512));
}
