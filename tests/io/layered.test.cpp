// SPDX-License-Identifier: MIT
// Blocking and asynchronous I/O over a layer above a socket. This one inverts each byte.
#include "catch.hpp"
#include <nbd/io/asynchronous.hpp>
#include <nbd/io/blocking.hpp>
#include <nbd/io/layered.hpp>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/connect_pair.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <exception>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <sys/socket.h>

namespace asio = boost::asio;
using nbd::io::transfer;

namespace {

using executor = asio::io_context::executor_type;
using socket_type = asio::local::stream_protocol::socket::rebind_executor<executor>::other;

struct inverting {
    using executor_type = executor;

    socket_type& next_layer() { return socket; }
    executor get_executor() { return socket.get_executor(); }
    bool has_pending() const { return pending; }
    bool wants_write() const { return writes; }

    transfer receive_now(asio::mutable_buffer to)
    {
        ++attempts;
        writes = false;
        const auto got = nbd::io::read_at_once(socket, to);
        const auto bytes = static_cast<char*>(to.data());
        std::transform(bytes, bytes + std::get<1>(got), bytes,
                       [](char c) { return static_cast<char>(~c); });
        return got;
    }
    template <class Buffers>
    transfer send_now(const Buffers& from, std::size_t)
    {
        ++attempts;
        std::string all;
        for (const asio::const_buffer b : from)
            for (std::size_t i = 0; i < b.size(); ++i)
                all += static_cast<char>(~static_cast<const char*>(b.data())[i]);
        writes = true;
        return nbd::io::write_at_once(socket, asio::buffer(all));
    }

    socket_type socket;
    bool pending = false;
    bool writes = false;
    int attempts = 0;
};
static_assert(nbd::io::layered<inverting>);
static_assert(!nbd::io::socket<inverting>);

struct pair {
    pair() { asio::local::connect_pair(stream.socket, peer); }
    void peer_sends(const std::string& text) { asio::write(peer, asio::buffer(inverted(text))); }
    std::string peer_gets(std::size_t n)
    {
        std::string all(n, '\0');
        asio::read(peer, asio::buffer(all));
        return inverted(all);
    }
    static std::string inverted(std::string text)
    {
        std::transform(text.begin(), text.end(), text.begin(),
                       [](char c) { return static_cast<char>(~c); });
        return text;
    }
    asio::io_context context;
    inverting stream{socket_type{context}};
    socket_type peer{context};
};

struct stock {
    static constexpr std::chrono::milliseconds idle_after{1};
    static bool holds_much() { return true; }
    static void share_stock() { ++freed; }
    static inline int freed = 0;
};

struct gathered {
    std::array<asio::const_buffer, 2> all;
    auto pieces() const { return all; }
};

/// Runs a coroutine, and the context meanwhile.
template <class Coroutine>
void run(pair& p, Coroutine coroutine)
{
    std::exception_ptr thrown = std::make_exception_ptr(0);
    asio::co_spawn(p.context, std::move(coroutine), [&](std::exception_ptr e) { thrown = e; });
    p.context.run();
    CHECK(thrown == nullptr);
}

}  // namespace

TEST_CASE("io/layered: blocking I/O waits for the socket of the layer")
{
    pair p;
    std::thread sender{[&] {
        std::this_thread::sleep_for(std::chrono::milliseconds{20});
        p.peer_sends("disk");
    }};
    std::array<char, 8> room{};
    const auto buffer = asio::buffer(room);
    CHECK(nbd::io::blocking::read_some(p.stream, buffer).await_resume()
          == transfer{boost::system::error_code{}, 4});
    sender.join();
    CHECK(std::string{room.data(), 4} == "disk");
    CHECK(p.stream.attempts == 2);

    CHECK(nbd::io::blocking::write_some(p.stream, asio::buffer("block", 5)).await_resume()
          == transfer{boost::system::error_code{}, 5});
    CHECK(nbd::io::blocking::try_send(p.stream,
                                      gathered{{asio::buffer("de", 2), asio::buffer("vice", 4)}})
          == transfer{boost::system::error_code{}, 6});
    CHECK(p.peer_gets(11) == "blockdevice");
}

TEST_CASE(
    "io/layered: the polling receive finds bytes, and frees the stock of a thread that sleeps")
{
    for (const int budget : {0, 1000}) {
        pair p;
        nbd::io::busy_poll poll{std::chrono::microseconds{budget}};
        std::array<char, 8> room{};
        p.peer_sends("here");
        CHECK(nbd::io::blocking::read_some<stock>(p.stream, asio::buffer(room), poll).await_resume()
              == transfer{boost::system::error_code{}, 4});
        stock::freed = 0;
        std::thread sender{[&] {
            std::this_thread::sleep_for(std::chrono::milliseconds{30});
            p.peer_sends("late");
        }};
        CHECK(nbd::io::blocking::read_some<stock>(p.stream, asio::buffer(room), poll).await_resume()
              == transfer{boost::system::error_code{}, 4});
        sender.join();
        CHECK(stock::freed == 1);
        CHECK(std::string{room.data(), 4} == "late");
    }
}

TEST_CASE("io/layered: bytes that the layer holds count as received")
{
    pair p;
    using asynchronous = nbd::io::asynchronous<executor>;
    CHECK(asynchronous::must_wait(p.stream));
    CHECK_FALSE(nbd::io::is_readable(p.stream, 0));
    p.stream.pending = true;
    CHECK_FALSE(asynchronous::must_wait(p.stream));
    CHECK(nbd::io::is_readable(p.stream, 0));
    p.stream.pending = false;
    p.peer_sends("x");
    CHECK_FALSE(asynchronous::must_wait(p.stream));
    CHECK_FALSE(nbd::io::is_hung_up(p.stream));
    p.peer.close();
    CHECK(nbd::io::is_hung_up(p.stream));
}

TEST_CASE("io/layered: asynchronous I/O waits for the socket of the layer")
{
    pair p;
    using asynchronous = nbd::io::asynchronous<executor>;
    std::array<char, 8> room{};
    run(p, [&]() -> asio::awaitable<void, executor> {
        asynchronous io;
        nbd::io::busy_poll poll{std::chrono::microseconds{0}};
        p.peer_sends("now");  // completes without a wait
        auto moved = co_await asynchronous::read_some(p.stream, asio::buffer(room));
        CHECK(moved == transfer{boost::system::error_code{}, 3});
        CHECK(p.stream.attempts == 1);
        asio::post(p.context, [&] { p.peer_sends("late"); });
        moved = co_await io.read_some<stock>(p.stream, asio::buffer(room), poll);
        CHECK(moved == transfer{boost::system::error_code{}, 4});
        CHECK(p.stream.attempts == 3);
        moved = co_await asynchronous::write_some(p.stream, asio::buffer("block", 5));
        CHECK(moved == transfer{boost::system::error_code{}, 5});
        const bool readable =
            co_await asynchronous::readable_within(p.stream, std::chrono::milliseconds{0});
        CHECK_FALSE(readable);
    });
    CHECK(std::string{room.data(), 4} == "late");
    CHECK(p.peer_gets(5) == "block");
}

TEST_CASE("io/layered: an asynchronous send waits until the socket takes some")
{
    pair p;
    nbd::io::asynchronous<executor> io;
    const std::vector<char> much(std::size_t{4} << 20, 'x');
    std::size_t sent = 0;
    run(p, [&]() -> asio::awaitable<void, executor> {
        const gathered all{{asio::buffer(much), {}}};
        for (bool drained = false;;) {
            const auto [error, n] = io.try_send(p.stream, all);
            if (error == asio::error::would_block) {
                if (std::exchange(drained, true))
                    break;
                asio::post(p.context, [&] { std::ignore = p.peer_gets(sent); });
                const auto [failed, more] = co_await io.send_some(p.stream, all);
                CHECK_FALSE(failed);
                CHECK(more != 0);
            } else {
                REQUIRE_FALSE(error);
                sent += n;
            }
        }
    });
    CHECK(sent != 0);
}

TEST_CASE("io/layered: a wait ends when another thread shuts the socket down")
{
    pair p;
    std::thread other{[&] {
        std::this_thread::sleep_for(std::chrono::milliseconds{20});
        ::shutdown(p.stream.socket.native_handle(), SHUT_RDWR);
    }};
    std::array<char, 8> room{};
    CHECK(std::get<0>(nbd::io::blocking::read_some(p.stream, asio::buffer(room)).await_resume())
          == asio::error::eof);
    other.join();
    CHECK(std::get<0>(nbd::io::blocking::write_some(p.stream, asio::buffer(room)).await_resume())
          == asio::error::broken_pipe);
}
