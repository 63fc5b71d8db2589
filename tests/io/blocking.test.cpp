// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/session.hpp"
#include <nbd/io/blocking.hpp>

#include <memory>
#include <stdexcept>
#include <thread>

using nbd::io::blocking;
using namespace nbd_test;

namespace {
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

TEST_CASE("io/blocking: a task gives its result, also one that can only be moved")
{
    CHECK(gives(42).get() == 42);
    CHECK(*gives_what_only_moves().get() == 7);
}

TEST_CASE("io/blocking: a task has run to its end when it is returned, on this thread")
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

TEST_CASE("io/blocking: what a task throws comes out of get, and not before")
{
    bool ran = false;
    auto task = throws(ran);
    CHECK(ran);
    CHECK_THROWS_WITH(task.get(), "thrown");
    // One that nobody asks ends quietly.
    static_cast<void>(throws(ran));
}

TEST_CASE(
    "io/blocking: an operation is one call of the stream, never suspends, and gives its error")
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
