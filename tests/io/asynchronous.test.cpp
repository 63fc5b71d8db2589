// SPDX-License-Identifier: MIT
// A session with asynchronous I/O over a pair of connected sockets.
#include "catch.hpp"
#include "grid/allocation_count.hpp"
#include "support/session.hpp"
#include <nbd/io/asynchronous.hpp>

#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/connect_pair.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <exception>
#include <tuple>
#include <utility>

using namespace nbd_test;
namespace asio = boost::asio;

namespace {

using executor = asio::io_context::executor_type;
using io_type = nbd::io::asynchronous<executor>;
using socket_type = asio::basic_stream_socket<asio::local::stream_protocol, executor>;

struct sockets {
    asio::io_context context{1};
    socket_type server{context.get_executor()};
    socket_type client{context.get_executor()};
    sockets() { asio::local::connect_pair(server, client); }

    /// All bytes that the server has sent, after it has closed its side.
    bytes rest()
    {
        server.close();
        bytes all;
        boost::system::error_code eof;
        asio::read(client, asio::dynamic_buffer(all), eof);
        return all;
    }
};

/// A stream over a socket, as a layer such as TLS is one.
struct layer {
    using executor_type = executor;
    socket_type& next;

    executor get_executor() { return next.get_executor(); }
    template <class Buffers, class Handler>
    void async_write_some(const Buffers& from, Handler&& handler)
    {
        next.async_write_some(from, std::forward<Handler>(handler));
    }
};
/// What is sent.
struct gathered {
    std::array<asio::const_buffer, 1> all;
    [[nodiscard]] const std::array<asio::const_buffer, 1>& pieces() const { return all; }
    [[nodiscard]] bool file_follows() const { return false; }
    [[nodiscard]] nbd::session::lent_data file() const { return {}; }
};

}  // namespace

static_assert(std::is_same_v<io_type::task<int>, asio::awaitable<int, executor>>);

TEST_CASE("io/asynchronous: a session sends the same bytes as with blocking I/O")
{
    const auto said = client_flags() + option(3) + option(99, pattern(5))
        + option(7, info_data("disk")) + request(0, 1, 5, 4) + request(1, 2, 0, 3) + hex("010203")
        + request(3, 3, 0, 0) + request(1, 4, 7, 70'000) + pattern(70'000, 4)
        + request(0, 5, 7, 100) + request(77, 6, 0, 0) + request(2, 7, 0, 0);
    disk_state expected{200'000};
    one_client<copying_disk> blocking{copying_disk{expected}};
    blocking.serve(said);

    disk_state state{200'000};
    one_client<copying_disk> awaiting{copying_disk{state}};
    awaiting.negotiate({});  // creates the context
    sockets pair;
    std::exception_ptr thrown;
    bool done = false;
    asio::co_spawn(pair.context,
                   nbd::session::serve<io_type>(pair.server, awaiting.exports, *awaiting.context,
                                                awaiting.policy),
                   [&](std::exception_ptr e) {
                       thrown = e;
                       done = true;
                   });
    // In small pieces, with the session running in between: it suspends at every wait.
    for (std::size_t at = 0; at < said.size();) {
        const auto n = std::min<std::size_t>(at < 400 ? 7 : 5000, said.size() - at);
        asio::write(pair.client, asio::buffer(said.data() + at, n));
        at += n;
        pair.context.poll();
    }
    pair.context.run();
    CHECK(done);
    CHECK(thrown == nullptr);
    CHECK((pair.rest() == blocking.stream->heard()));
    CHECK(state.story() == expected.story());
    CHECK((state.content == expected.content));
}

TEST_CASE("io/asynchronous: the end of the stream and errors are values")
{
    sockets pair;
    boost::system::error_code read_error;
    boost::system::error_code write_error;
    std::size_t got = 1;
    pair.client.close();
    const auto task = [&]() -> io_type::task<void> {
        bytes to(10);
        const auto [failed, n] = co_await io_type::read_some(pair.server, asio::buffer(to));
        read_error = failed;
        got = n;
        const auto [broken, sent] = co_await io_type::write_some(pair.server, asio::buffer(to));
        write_error = broken;
    };
    asio::co_spawn(pair.context, task(), [](std::exception_ptr e) { CHECK(e == nullptr); });
    pair.context.run();
    CHECK(read_error == asio::error::eof);
    CHECK(got == 0);
    CHECK(write_error == asio::error::broken_pipe);
}

TEST_CASE("io/asynchronous: a client that lets others run waits until one that is ready has run")
{
    sockets greedy;
    socket_type server{greedy.context};
    socket_type client{greedy.context};
    asio::local::connect_pair(server, client);
    int turns = 0;
    int before = 0;
    std::size_t allocated = 1;
    const auto reads = [&]() -> io_type::task<void> {
        bytes to(10);
        io_type io;
        nbd::io::busy_poll never{std::chrono::nanoseconds{0}};
        co_await io.read_some<void>(server, asio::buffer(to), never);
        before = turns;
    };
    const auto works = [&]() -> io_type::task<void> {
        io_type io;
        for (; turns < 20; ++turns) {
            if (turns == 5)
                asio::write(client, asio::buffer("x", 1));
            if (turns == 10)
                allocated = grid::allocations();
            co_await io.yield(greedy.server);
        }
        allocated = grid::allocations() - allocated;
    };
    asio::co_spawn(greedy.context, reads(), [](std::exception_ptr e) { CHECK(e == nullptr); });
    asio::co_spawn(greedy.context, works(), [](std::exception_ptr e) { CHECK(e == nullptr); });
    greedy.context.run();
    CHECK(turns == 20);
    CHECK(before == 5);
    CHECK(allocated == 0);
}

TEMPLATE_TEST_CASE("io/asynchronous: a send waits until the stream takes some bytes", "",
                   socket_type&, layer)
{
    sockets pair;
    TestType stream{pair.server};
    const bytes said = pattern(1 << 20);
    std::size_t done = 0;
    const auto task = [&]() -> io_type::task<void> {
        io_type io;
        while (done != said.size()) {
            const gathered rest{{asio::buffer(said.data() + done, said.size() - done)}};
            auto result = io.try_send(stream, rest);
            while (std::get<0>(result) == asio::error::would_block)
                result = co_await io.send_some(stream, rest);
            CHECK_FALSE(std::get<0>(result));
            done += std::get<1>(result);
        }
        pair.server.close();
    };
    asio::co_spawn(pair.context, task(), [](std::exception_ptr e) { CHECK(e == nullptr); });
    pair.context.poll();
    CHECK(done < said.size());  // it waits for the client
    bytes heard;
    bytes part(10'000);
    boost::system::error_code eof;
    while (!eof) {
        const auto n = pair.client.read_some(asio::buffer(part), eof);
        heard.insert(heard.end(), part.begin(), part.begin() + static_cast<std::ptrdiff_t>(n));
        pair.context.poll();
    }
    CHECK((heard == said));
}
