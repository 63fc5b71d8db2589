// SPDX-License-Identifier: MIT
// Backends that wait: awaited ones on both policies, and blocking ones on a pool. How many requests
// are in progress at the same time, the order of replies, cancellation, and waits.
#include "grid/waiting.hpp"

using namespace grid;

TEMPLATE_TEST_CASE("waiting: replies are sent in the order of completion, each with its own data",
                   "", ALL_THAT_WAIT)
{
    served<TestType> s;
    auto c = s.client();
    s.board.close({0, 4096, 8192});
    for (const std::uint64_t at : {0U, 4096U, 8192U, 100'352U})
        ask(c, command::read, at, at, 3000);
    CHECK(take_read(c, s.board, 3000) == 100'352);
    REQUIRE(s.board.await([&] { return s.board.inside == 3; }));
    s.board.open(8192);
    CHECK(take_read(c, s.board, 3000) == 8192);
    s.board.open(0);
    CHECK(take_read(c, s.board, 3000) == 0);
    s.board.open(4096);
    CHECK(take_read(c, s.board, 3000) == 4096);
}

TEMPLATE_TEST_CASE("waiting: at most requests_in_flight requests are in progress", "",
                   ALL_THAT_WAIT)
{
    nbd::settings limits;
    limits.requests_in_flight = 8;
    served<TestType> s{limits};
    auto c = s.client();
    for (std::uint64_t i = 0; i < 20; ++i) {
        s.board.close({i * 512});
        ask(c, command::read, i * 512, i * 512, 512);
    }
    REQUIRE(s.board.await([&] { return s.board.inside == 8; }));
    std::set<std::uint64_t> answered;
    for (std::uint64_t i = 0; i < 20; ++i) {
        s.board.open(i * 512);
        answered.insert(take_read(c, s.board, 512));
    }
    CHECK(answered.size() == 20);
    CHECK(s.board.most == 8);
}

TEMPLATE_TEST_CASE("waiting: the memory of one client's requests is bounded", "", ALL_THAT_WAIT)
{
    nbd::settings limits;
    limits.client_memory = std::size_t{2} << 20;
    served<TestType> s{limits};
    auto c = s.client();
    s.board.close({0, 512, 1024});
    ask(c, command::read, 0, 0, 800'000);
    ask(c, command::read, 512, 512, 800'000);
    ask(c, command::read, 1024, 1024, 800'000);
    REQUIRE(s.board.await([&] { return s.board.inside == 1; }));
    s.board.open(0);
    CHECK(take_read(c, s.board, 800'000) == 0);
    s.board.open(512);
    CHECK(take_read(c, s.board, 800'000) == 512);
    s.board.open(1024);
    CHECK(take_read(c, s.board, 800'000) == 1024);
    CHECK(s.board.most == 1);
}

TEMPLATE_TEST_CASE("waiting: DISC waits for earlier requests", "", ALL_THAT_WAIT)
{
    served<TestType> s;
    auto c = s.client();
    s.board.close({512, 4096});
    ask(c, command::write, 1, 512, 70'000);
    ask(c, command::read, 4096, 4096, 512);
    c.disconnect();
    REQUIRE(s.board.await([&] { return s.board.inside == 2; }));
    s.board.open(512);
    CHECK(c.receive_reply() == proto::simple_reply{error_value::none, 1});
    s.board.open(4096);
    CHECK(c.receive_reply().cookie == 4096);
    std::ignore = c.receive(512);
    CHECK(c.closed());
    const auto written = pattern(70'000, 7);
    CHECK(std::equal(written.begin(), written.end(), s.board.content.begin() + 512));
}

TEMPLATE_TEST_CASE(
    "waiting: a WRITE with FUA is answered after the write and the flush that follows it", "",
    ALL_THAT_WAIT)
{
    served<TestType> s;
    auto c = s.client();
    s.board.close({1});
    ask(c, command::write, 9, 512, 512, proto::command_flag::fua);
    REQUIRE(s.board.await([&] { return s.board.story.size() == 2; }));
    CHECK(s.board.story == std::vector<std::string>{"write 512", "flush 1"});
    // Other requests are served meanwhile.
    ask(c, command::read, 4096, 4096, 512);
    CHECK(take_read(c, s.board, 512) == 4096);
    s.board.open(1);
    CHECK(c.receive_reply() == proto::simple_reply{error_value::none, 9});
}

TEMPLATE_TEST_CASE("waiting: a refused request and a throwing backend are error replies", "",
                   ALL_THAT_WAIT)
{
    served<TestType> s;
    auto c = s.client();
    CHECK(c.request(command::trim, 0, 512) == error_value::eio);
    CHECK(c.request(command::read, 1 << 20, 512) == error_value::einval);
    CHECK(c.request(command::write, 1 << 20, 512, 0, bytes(512)) == error_value::enospc);
    CHECK(c.request(command::write, 1 << 20, 100'000, 0, bytes(100'000)) == error_value::enospc);
    CHECK(c.request(command::flush, 0, 0) == error_value::none);
    CHECK(c.read(0, 0));
    CHECK(c.read(512, 512));
}

TEMPLATE_TEST_CASE("waiting: overlapping writes are serialized with serialize_overlaps", "",
                   ALL_THAT_WAIT)
{
    nbd::settings limits;
    limits.serialize_overlaps = true;
    served<TestType> s{limits};
    auto c = s.client();
    s.board.close({0, 1024});
    ask(c, command::write, 1, 0, 2048);
    ask(c, command::write, 2, 1024, 2048);
    REQUIRE(s.board.await([&] { return s.board.inside == 1; }));
    s.board.open(0);
    CHECK(c.receive_reply().cookie == 1);
    s.board.open(1024);
    CHECK(c.receive_reply().cookie == 2);
    CHECK(s.board.most == 1);
    // Overlapping reads do not wait.
    s.board.close({0});
    ask(c, command::read, 0, 0, 2048);
    ask(c, command::read, 1024, 1024, 512);
    CHECK(take_read(c, s.board, 512) == 1024);
    s.board.open(0);
    CHECK(take_read(c, s.board, 2048) == 0);
}

TEMPLATE_TEST_CASE("waiting: a cancellable backend is told that the client has gone", "",
                   (with<cancelling<awaited>, nbd::strand_pool>),
                   (with<cancelling<awaited>, nbd::per_client_threads>),
                   (with<cancelling<awaited_by_any>, nbd::strand_pool>))
{
    nbd::settings limits;
    limits.requests_in_flight = 4;
    served<TestType> s{limits};
    const bool full = GENERATE(false, true);
    auto c = s.client();
    for (std::uint64_t i = 0; i < (full ? 8U : 3U); ++i) {
        s.board.close({i * 512});
        ask(c, command::read, i, i * 512, 512);
    }
    const int begun = full ? 4 : 3;
    REQUIRE(s.board.await([&] { return s.board.inside == begun; }));
    c.close();
    REQUIRE(s.board.await([&] { return s.board.inside == 0; }));
    CHECK(s.board.cancelled == begun);
    // Other clients are not affected.
    auto other = s.client();
    CHECK(other.read(100'352, 512));
}

TEMPLATE_TEST_CASE("waiting: stop lets requests in progress finish within the grace period", "",
                   ALL_THAT_WAIT)
{
    served<TestType> s;
    auto c = s.client();
    s.board.close({512});
    ask(c, command::read, 512, 512, 512);
    REQUIRE(s.board.await([&] { return s.board.inside == 1; }));
    std::thread stopping{[&] { s.server.stop(); }};
    s.board.open(512);
    CHECK(take_read(c, s.board, 512) == 512);
    CHECK(c.closed());
    stopping.join();
}

TEMPLATE_TEST_CASE("waiting: a backend with serialize_all gets one call at a time over all clients",
                   "", (with<one_at_a_time, nbd::strand_pool>),
                   (with<one_at_a_time, nbd::per_client_threads>))
{
    served<TestType> s;
    std::vector<raw_client> clients;
    for (int i = 0; i < 4; ++i) {
        clients.push_back(s.client());
        for (std::uint64_t at = 0; at < 8; ++at)
            ask(clients.back(), command::read, at * 512, at * 512, 512);
    }
    for (auto& c : clients)
        for (int i = 0; i < 8; ++i)
            std::ignore = take_read(c, s.board, 512);
    CHECK(s.board.most == 1);
    CHECK(s.board.story.size() == 32);
}

TEMPLATE_TEST_CASE("waiting: many requests of many sizes are each answered with their own data", "",
                   ALL_THAT_WAIT)
{
    served<TestType> s;
    auto c = s.client();
    bytes batch;
    std::uint64_t total = 0;
    for (std::uint64_t i = 0; i < 200; ++i) {
        const auto at = i * 512;
        const auto length = 1 + (i * 7919) % 20'000;
        raw_client::append(
            batch, {.command = command::read, .cookie = at, .offset = at, .length = length});
        total += length;
    }
    c.send(batch);
    std::set<std::uint64_t> seen;
    for (int i = 0; i < 200; ++i) {
        const auto reply = c.receive_reply();
        REQUIRE(reply.error == error_value::none);
        const auto data = c.receive(1 + (reply.cookie / 512 * 7919) % 20'000);
        CHECK(std::equal(data.begin(), data.end(),
                         s.board.content.begin() + static_cast<std::ptrdiff_t>(reply.cookie)));
        seen.insert(reply.cookie);
    }
    CHECK(seen.size() == 200);
}

namespace {
/// Ignores writes, and claims to have filled the memory of reads.
struct lazy_handler {
    using executor = boost::asio::io_context::executor_type;
    [[nodiscard]] std::uint64_t size() const { return 1 << 20; }
    boost::asio::awaitable<void, executor> handle(nbd::call& c)
    {
        c.reply();
        c.sent(c.space().size());
        co_return;
    }
};
}  // namespace

TEMPLATE_TEST_CASE("waiting: bytes that a handler claims to have read but has not are zero", "",
                   nbd::strand_pool, nbd::per_client_threads)
{
    nbd::server<nbd::unix_transport, lazy_handler, TestType> server{
        somewhere<nbd::unix_transport>()};
    server.exports().add("disk", lazy_handler{});
    server.start();
    raw_client c = connect(server);
    c.go("disk");
    // The READ is likely to get the memory of the WRITE.
    REQUIRE(c.write(0, bytes(20'000, std::byte{0xee})) == error_value::none);
    CHECK((c.read(0, 20'000) == bytes(20'000)));
}

namespace {
/// Has no write_zeroes. The first write waits until the test opens its offset.
struct slowly_zeroed {
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool blocks = true;
    explicit slowly_zeroed(switchboard& s) : board{&s} {}
    [[nodiscard]] std::uint64_t size() const { return std::uint64_t{1} << 30; }
    void read(std::uint64_t, std::span<std::byte>) { writes_before_read = writes.load(); }
    void write(std::uint64_t offset, std::span<const std::byte>)
    {
        if (writes++ == 0) {
            board->enter("write " + std::to_string(offset));
            std::ignore = board->await([&] { return !board->closed.contains(offset); });
            board->leave();
        }
    }
    switchboard* board;
    std::atomic<int> writes{0};
    std::atomic<int> writes_before_read{-1};
};
/// Takes one call at a time; calls at closed offsets wait.
struct slow_and_alone : blocking_disk {
    static constexpr nbd::concurrency concurrency = nbd::concurrency::serialize_all;
    using blocking_disk::blocking_disk;
    void resize(std::uint64_t) {}
};
template <class Disk>
struct growing : Disk {
    explicit growing(switchboard& s) : Disk{s}, board{&s} {}
    void resize(std::uint64_t)
    {
        board->enter("resize");
        board->leave();
    }
    switchboard* board;
};
}  // namespace

TEMPLATE_TEST_CASE("waiting: RESIZE waits for earlier requests, and later ones wait for RESIZE", "",
                   (nbd::server<nbd::unix_transport, growing<awaited>, nbd::strand_pool>),
                   (nbd::server<nbd::unix_transport, growing<awaited>, nbd::per_client_threads>),
                   (nbd::server<nbd::unix_transport, growing<blocking_disk>, nbd::strand_pool>))
{
    switchboard board;
    board.close({0});
    TestType server{somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {.allow_resize = true}, board);
    server.start();
    auto c = connect(server);
    c.go("disk");
    ask(c, command::write, 1, 0, 512);
    ask(c, command::resize, 2, 2 << 20, 0);
    ask(c, command::write, 3, (2 << 20) - 512, 0);
    ask(c, command::read, 4, 512, 0);
    ask(c, command::write, 5, 512, 512);
    REQUIRE(board.await([&] { return board.inside == 1; }));
    board.open(0);
    for (std::uint64_t cookie = 1; cookie <= 2; ++cookie) {
        const auto reply = c.receive_reply();
        CHECK(reply.cookie == cookie);
        CHECK(reply.error == error_value::none);
    }
    for (int i = 0; i < 3; ++i)
        CHECK(c.receive_reply().error == error_value::none);
    CHECK(board.await([&] {
        return board.story == std::vector<std::string>{"write 0", "resize", "write 512"};
    }));
}

TEST_CASE("waiting: a long WRITE_ZEROES leaves the threads to other clients between its writes")
{
    switchboard board;
    board.close({0});
    std::atomic<int> count{0};
    nbd::server<nbd::unix_transport, slowly_zeroed, nbd::strand_pool, request_counter> server{
        somewhere<nbd::unix_transport>(), {}, nbd::strand_pool{1}, request_counter{&count}};
    const auto disk = server.exports().emplace("disk", {}, board);
    server.start();
    auto zeroing = connect(server);
    auto reading = connect(server);
    zeroing.go("disk");
    reading.go("disk");
    constexpr std::uint64_t length = std::uint64_t{1} << 30;
    ask(zeroing, command::write_zeroes, 1, 0, length);
    REQUIRE(board.await([&] { return board.inside == 1; }));
    ask(reading, command::read, 2, 0, 512);
    for (int seen = 0; seen != 2; seen = count.load())
        count.wait(seen);
    board.open(0);
    CHECK(reading.receive_reply().error == error_value::none);
    CHECK(zeroing.receive_reply().error == error_value::none);
    CHECK(disk->writes == length / (64 << 10));
    CHECK(disk->writes_before_read < disk->writes);
}

TEST_CASE("waiting: a client is admitted while the disk is busy for another one")
{
    switchboard board;
    board.close({0});
    nbd::server<nbd::unix_transport, slow_and_alone, nbd::strand_pool> server{
        somewhere<nbd::unix_transport>(), {}, nbd::strand_pool{1}};
    server.exports().emplace("disk", {}, board);
    server.start();
    auto slow = connect(server);
    slow.go("disk");
    ask(slow, command::write, 1, 0, 512);
    REQUIRE(board.await([&] { return board.inside == 1; }));
    auto next = connect(server);
    CHECK(next.go("disk").size == board.content.size());
    board.open(0);
    CHECK(slow.receive_reply().error == error_value::none);
}

TEST_CASE("waiting: requests that wait for a serialized disk occupy no thread (B11)")
{
    switchboard busy;
    switchboard idle;
    busy.close({0});
    nbd::server<nbd::unix_transport, slow_and_alone, nbd::strand_pool> server{
        somewhere<nbd::unix_transport>(), {}, nbd::strand_pool{2}};
    server.exports().emplace("busy", {.allow_resize = true}, busy);
    server.exports().emplace("idle", {}, idle);
    server.start();
    std::vector<raw_client> waiting;
    for (int i = 0; i < 4; ++i) {
        waiting.push_back(connect(server));
        waiting.back().go("busy");
        if (i != 2)  // this client shares a thread with the last one
            ask(waiting.back(), command::write, 1, 0, 512);
        else
            ask(waiting.back(), command::resize, 1, 1 << 20, 0);
    }
    auto other = connect(server);
    other.go("idle");
    for (std::uint64_t at = 0; at < 8 * 512; at += 512)
        CHECK(other.write(at, pattern(512, 7)) == error_value::none);
    busy.open(0);
    for (auto& c : waiting)
        CHECK(c.receive_reply().error == error_value::none);
    CHECK(busy.await([&] { return busy.most == 1; }));
}

namespace {
/// Has the first half of the disk at hand.
struct half_cached {
    static constexpr std::uint64_t mib = std::uint64_t{1} << 20;
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool blocks = true;
    [[nodiscard]] std::uint64_t size() const { return 2 * mib; }
    void read(std::uint64_t, std::span<std::byte> to)
    {
        std::fill(to.begin(), to.end(), std::byte{0xdd});
        ++reads;
        called_by = std::this_thread::get_id();
    }
    std::size_t read_now(std::uint64_t offset, std::span<std::byte> to) noexcept
    {
        const auto n = std::min<std::uint64_t>(to.size(), offset > mib ? 0 : mib - offset);
        std::fill_n(to.begin(), n, std::byte{0xca});
        asked_by = std::this_thread::get_id();
        return static_cast<std::size_t>(n);
    }
    std::atomic<int> reads{0};
    std::atomic<std::thread::id> asked_by{};
    std::atomic<std::thread::id> called_by{};
};
}  // namespace

TEST_CASE("waiting: a READ of data that are at hand does not change the thread")
{
    nbd::server<nbd::unix_transport, half_cached, nbd::strand_pool> server{
        somewhere<nbd::unix_transport>()};
    const auto disk = server.exports().emplace("disk", {});
    server.start();
    raw_client c = connect(server);
    c.go("disk");
    for (const std::uint32_t length : {512U, 100'000U, 1U << 20}) {
        CHECK((c.read(0, length) == bytes(length, std::byte{0xca})));
        CHECK(disk->reads == 0);
    }
    // Partly at hand is not enough.
    CHECK((c.read(half_cached::mib - 512, 1024) == bytes(1024, std::byte{0xdd})));
    CHECK(disk->reads == 1);
    CHECK(disk->called_by.load() != disk->asked_by.load());
}
