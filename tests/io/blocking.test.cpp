// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/bytes.hpp"
#include "support/session.hpp"
#include <nbd/io/blocking.hpp>
#include <nbd/session/buffers/outbox.hpp>

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/connect_pair.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <stdexcept>
#include <thread>

#include <sys/mman.h>
#include <unistd.h>

using nbd::io::blocking;
using namespace nbd_test;

namespace {
struct no_stock {
    static constexpr std::chrono::milliseconds idle_after{1};
    static bool holds_much() { return false; }
    static void share_stock() {}
};
blocking::task<int> gives(int value)
{
    co_return value;
}
blocking::task<std::unique_ptr<int>> gives_what_only_moves()
{
    co_return std::make_unique<int>(7);
}
blocking::task<void> throws(bool& ran)
{
    ran = true;
    throw std::runtime_error{"thrown"};
    co_return;
}
blocking::task<int> awaits(std::string& story)
{
    story += "begin ";
    const int n = co_await gives(1) + co_await gives(2);
    story += "middle ";
    bool ran = false;
    try {
        co_await throws(ran);
    } catch (const std::runtime_error& e) {
        story += e.what();
    }
    co_return n;
}
struct counted {
    explicit counted(int& n) : n_{&n} { ++*n_; }
    counted(const counted&) = delete;
    counted& operator=(const counted&) = delete;
    ~counted() { --*n_; }
    int* n_;
};
blocking::task<void> holds(int& alive, int& most)
{
    const counted local{alive};
    most = alive;
    co_return;
}
template <class Stream>
blocking::task<std::string> echoes(Stream& stream)
{
    std::string seen;
    for (;;) {
        bytes to(3);
        const auto [failed, n] = co_await blocking::read_some(stream, boost::asio::buffer(to));
        if (failed)
            co_return seen + (failed == boost::asio::error::eof ? "eof" : "error");
        seen += as_text(std::span{to}.first(n));
        co_await blocking::write_some(stream, boost::asio::buffer(to.data(), n));
    }
}
}  // namespace

TEST_CASE("io/blocking: a task returns its result, also a move-only one")
{
    CHECK(gives(42).get() == 42);
    CHECK(*gives_what_only_moves().get() == 7);
}

TEST_CASE("io/blocking: a task runs to its end on the calling thread before it is returned")
{
    int alive = 0;
    int most = 0;
    {
        auto task = holds(alive, most);
        CHECK(most == 1);
        CHECK(alive == 0);
        auto moved = std::move(task);
        moved.get();
    }
    CHECK(alive == 0);
    std::string story;
    auto task = awaits(story);
    CHECK(story == "begin middle thrown");
    CHECK(task.await_ready());
    CHECK(task.get() == 3);
}

TEST_CASE("io/blocking: get() rethrows the exception of a task")
{
    bool ran = false;
    auto task = throws(ran);
    CHECK(ran);
    CHECK_THROWS_WITH(task.get(), "thrown");
    // An exception that is not asked for is dropped.
    static_cast<void>(throws(ran));
}

TEST_CASE(
    "io/blocking: an operation is one call of the stream, never suspends, and returns its error")
{
    scripted_stream stream{text("abcdefgh"), {.read = 2}};
    CHECK(echoes(stream).get() == "abcdefgheof");
    CHECK(as_text(stream.heard()) == "abcdefgh");
    CHECK(stream.operations() == 4 + 4 + 1);
    scripted_stream broken{text("abc"), {.fails_at = 0}};
    CHECK(echoes(broken).get() == "error");
    bytes to(1);
    scripted_stream ready{text("x")};
    CHECK(blocking::read_some(ready, boost::asio::buffer(to)).await_ready());
}

TEST_CASE("io/blocking: a large send returns as soon as a part is sent")
{
    boost::asio::io_context context;
    using socket = boost::asio::local::stream_protocol::socket;
    socket here{context};
    socket there{context};
    boost::asio::local::connect_pair(here, there);
    constexpr std::size_t large = std::size_t{8} << 20;
    const nbd_test::bytes content(large);
    nbd::session::outbox out{1024};

    // The peer does not read: memory is sent up to the size of the socket buffers.
    out.lend(std::span<const std::byte>{content});
    const auto [error, n] = blocking::send_some(here, out).await_resume();
    CHECK_FALSE(error);
    CHECK(n > 0);
    CHECK(n < large);
    out.clear();

    // A file is sent in pieces of at most 1 MiB, which a slow client receives within its time
    // limit.
    const int file = ::memfd_create("nbd", MFD_CLOEXEC);
    REQUIRE(::ftruncate(file, large) == 0);
    out.lend(nbd::session::lent_data{{.file = file, .offset = 0}, large});
    auto reader =
        std::async(std::launch::async, [&, wanted = n + (std::size_t{1} << 20)]() mutable {
            nbd_test::bytes room(64 << 10);
            while (wanted != 0)
                wanted -= there.read_some(
                    boost::asio::buffer(room.data(), std::min(wanted, room.size())));
        });
    const auto [file_error, sent] = blocking::send_some(here, out).await_resume();
    CHECK_FALSE(file_error);
    CHECK(sent == std::size_t{1} << 20);
    reader.get();
    ::close(file);
}

TEST_CASE("io/blocking: bytes are received by a polling and by a sleeping thread")
{
    const auto sent_before = GENERATE(std::size_t{0}, std::size_t{64} << 10, std::size_t{1} << 20);
    const auto budget = std::chrono::microseconds{GENERATE(0, 50, 1'000'000)};
    boost::asio::io_context context;
    boost::asio::local::stream_protocol::socket ours{context};
    boost::asio::local::stream_protocol::socket theirs{context};
    boost::asio::local::connect_pair(ours, theirs);
    nbd::io::busy_poll poll{budget};
    std::string received;
    std::thread client{[&theirs] {
        for (char c = 'a'; c <= 'z'; ++c) {
            boost::asio::write(theirs, boost::asio::buffer(&c, 1));
            // The next byte is sent after the echo, so the server waits for it.
            boost::asio::read(theirs, boost::asio::buffer(&c, 1));
        }
        theirs.close();
    }};
    for (;;) {
        char c = 0;
        poll.sent(sent_before);
        const auto [error, n] =
            blocking::read_some<no_stock>(ours, boost::asio::buffer(&c, 1), poll).await_resume();
        if (error) {
            CHECK(error == boost::asio::error::eof);
            break;
        }
        REQUIRE(n == 1);
        received += c;
        boost::asio::write(ours, boost::asio::buffer(&c, 1));
    }
    client.join();
    CHECK(received == "abcdefghijklmnopqrstuvwxyz");
}

TEST_CASE("io/blocking: a reset is an error, whether it comes while the thread polls or sleeps")
{
    const auto budget = std::chrono::microseconds{GENERATE(0, 1'000'000)};
    const auto sent_before = GENERATE(std::size_t{0}, std::size_t{64} << 10);
    boost::asio::io_context context;
    boost::asio::local::stream_protocol::socket ours{context};
    boost::asio::local::stream_protocol::socket theirs{context};
    boost::asio::local::connect_pair(ours, theirs);
    // A peer that closes with bytes unread resets the connection.
    char c = 'x';
    boost::asio::write(ours, boost::asio::buffer(&c, 1));
    theirs.close();
    nbd::io::busy_poll poll{budget};
    poll.sent(sent_before);
    const auto [error, n] =
        blocking::read_some<no_stock>(ours, boost::asio::buffer(&c, 1), poll).await_resume();
    CHECK(error == boost::asio::error::connection_reset);
    CHECK(n == 0);
}

namespace {
struct full_stock {
    static constexpr std::chrono::milliseconds idle_after{1};
    static inline std::atomic<bool> full = true;
    static bool holds_much() { return full; }
    static void share_stock() { full = false; }
};
}  // namespace

TEST_CASE("io/blocking: a thread that has slept for a time shares its stock, and then receives")
{
    const auto budget = std::chrono::microseconds{GENERATE(0, 1000)};
    full_stock::full = true;
    boost::asio::io_context context;
    boost::asio::local::stream_protocol::socket ours{context};
    boost::asio::local::stream_protocol::socket theirs{context};
    boost::asio::local::connect_pair(ours, theirs);
    nbd::io::busy_poll poll{budget};
    char c = 'x';
    boost::asio::write(theirs, boost::asio::buffer(&c, 1));
    const auto receive = [&] {
        const auto [error, n] =
            blocking::read_some<full_stock>(ours, boost::asio::buffer(&c, 1), poll).await_resume();
        CHECK_FALSE(error);
        CHECK(n == 1);
    };
    receive();
    CHECK(full_stock::full);  // it did not sleep
    std::thread client{[&theirs] {
        while (full_stock::full)
            std::this_thread::yield();
        boost::asio::write(theirs, boost::asio::buffer("y", 1));
    }};
    receive();
    client.join();
    CHECK(c == 'y');
}
