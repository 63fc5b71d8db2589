// SPDX-License-Identifier: MIT
// The stream alone, on a pair of sockets: records, gathered buffers, and sockets that are full.
#include "catch.hpp"
#include "tls/client.hpp"
#include <nbd/io/layered.hpp>
#include <nbd/tls/credentials.hpp>
#include <nbd/tls/stream.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/local/connect_pair.hpp>
#include <boost/asio/local/stream_protocol.hpp>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <memory>
#include <span>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <sys/ioctl.h>
#include <sys/socket.h>

using namespace tls_test;
namespace asio = boost::asio;
using nbd::errc;

namespace {

using socket_type = asio::local::stream_protocol::socket;
using stream_type = nbd::tls::stream<socket_type>;
static_assert(nbd::io::layered<stream_type>);
static_assert(!nbd::io::socket<stream_type>);

struct connected {
    explicit connected(int version = 0)
    {
        client = std::make_unique<tls_client>(raw_client{other.release()},
                                              client_settings{.most_version = version});
        std::thread peer{[this] { client->handshake(); }};
        boost::system::error_code error;
        while ((error = stream.handshake_now()) == asio::error::would_block)
            nbd::io::block_until_ready(stream);
        if (error)
            socket.close();
        peer.join();
        REQUIRE_FALSE(error);
    }

    authority_and_server pki;
    nbd::tls_credentials credentials{nbd::tls_files{.certificates = pki.files.path()}};
    asio::io_context context;
    socket_type socket{context};
    socket_type other{context};
    const int linked = (asio::local::connect_pair(socket, other), 0);  // before the stream is made
    stream_type stream{socket, credentials.current()};
    std::unique_ptr<tls_client> client;
};

std::vector<asio::const_buffer> cut(const bytes& all, std::initializer_list<std::size_t> sizes)
{
    std::vector<asio::const_buffer> parts;
    std::size_t at = 0;
    for (const auto n : sizes) {
        parts.emplace_back(all.data() + at, n);
        at += n;
    }
    parts.emplace_back(all.data() + at, all.size() - at);
    return parts;
}

}  // namespace

// A UNIX socket would hold a part of what is sent here; so the client reads on a thread.
TEST_CASE("tls/stream: gathered buffers arrive in order, whatever their sizes")
{
    for (const int version : {TLS1_2_VERSION, 0}) {
        connected c{version};
        const auto all = grid::pattern(200'000);
        for (const auto& sizes : {std::initializer_list<std::size_t>{},
                                  {16, 4096, 16, 4096},
                                  {16, 100'000, 16},
                                  {0, 1, 0, 16384, 0},
                                  {16383, 2, 16384, 16384}}) {
            const auto parts = cut(all, sizes);
            bytes got;
            std::thread reader{[&] { got = c.client->receive(all.size()); }};
            std::size_t sent = 0;
            bytes rest = all;
            std::vector<asio::const_buffer> left = parts;
            while (sent < all.size()) {
                const auto [error, n] = c.stream.send_now(left, ~std::size_t{0});
                if (error == asio::error::would_block) {
                    CHECK(c.stream.wants_write());
                    nbd::io::block_until_ready(c.stream);
                    continue;
                }
                REQUIRE_FALSE(error);
                sent += n;
                for (auto skip = n; skip != 0;) {
                    const auto part = std::min(skip, left.front().size());
                    left.front() += part;
                    skip -= part;
                    if (left.front().size() == 0)
                        left.erase(left.begin());
                }
            }
            reader.join();
            CHECK(got == all);
        }
    }
}

TEST_CASE("tls/stream: small buffers share a record, and a limit is kept")
{
    connected c;
    const auto all = grid::pattern(100'000);
    const auto received_before = [&](std::size_t records) {
        std::array<std::byte, 200> some{};
        for (std::size_t i = 0; i < records; ++i)
            c.client->receive(some);
    };
    std::vector<asio::const_buffer> small;
    for (std::size_t i = 0; i < 100; ++i)
        small.emplace_back(all.data() + 2 * i, 2);
    const auto one = c.stream.send_now(small, ~std::size_t{0});
    CHECK(one == nbd::io::transfer{boost::system::error_code{}, 200});
    int waiting = 0;
    ::ioctl(c.client->fd(), FIONREAD, &waiting);
    CHECK(waiting < 200 + 64);  // one record
    received_before(1);
    CHECK(std::get<1>(c.stream.send_now(std::array{asio::buffer(all)}, 20'000)) == 32768);
    CHECK(std::get<1>(c.stream.send_now(std::array{asio::const_buffer{}}, 20'000)) == 0);
}

TEST_CASE("tls/stream: all that has arrived is received in one call")
{
    connected c;
    std::array<std::byte, 1000> room{};
    CHECK(std::get<0>(c.stream.receive_now(asio::buffer(room))) == asio::error::would_block);
    CHECK_FALSE(c.stream.wants_write());
    CHECK_FALSE(c.stream.has_pending());
    const auto all = grid::pattern(300);
    for (std::size_t at = 0; at < 300; at += 30)  // ten records
        c.client->send(std::span{all}.subspan(at, 30));
    const auto first = c.stream.receive_now(asio::buffer(room, 45));
    CHECK(first == nbd::io::transfer{boost::system::error_code{}, 45});
    CHECK(c.stream.has_pending());
    const auto second = c.stream.receive_now(asio::buffer(room) + 45);
    CHECK(second == nbd::io::transfer{boost::system::error_code{}, 255});
    CHECK(std::equal(all.begin(), all.end(), room.begin()));
    CHECK_FALSE(c.stream.has_pending());
}

TEST_CASE("tls/stream: the end of TLS, and the end of the connection")
{
    std::array<std::byte, 100> room{};
    {
        connected c;
        c.client->send(grid::pattern(10));
        c.client->close_notify();
        CHECK(std::get<1>(c.stream.receive_now(asio::buffer(room))) == 10);
        CHECK(nbd::io::is_readable(c.stream, 0));  // the end, although the socket is empty
        CHECK(std::get<0>(c.stream.receive_now(asio::buffer(room))) == asio::error::eof);
        CHECK(std::get<0>(c.stream.receive_now(asio::buffer(room))) == asio::error::eof);
        const auto reply = grid::pattern(5);  // the other direction is open
        CHECK(std::get<1>(c.stream.send_now(std::array{asio::buffer(reply)}, 5)) == 5);
        CHECK(c.client->receive(5) == reply);
        c.stream.close_now();
        CHECK(c.client->closed(1));
        CHECK(c.client->was_told_of_end());
    }
    {
        connected c;
        c.client->send(grid::pattern(10));
        ::shutdown(c.client->fd(), SHUT_WR);
        CHECK(std::get<1>(c.stream.receive_now(asio::buffer(room))) == 10);
        for (int i = 0; i < 2; ++i)
            CHECK(std::get<0>(c.stream.receive_now(asio::buffer(room)))
                  == std::error_code{errc::cut_short});
        const auto reply = grid::pattern(5);
        CHECK(std::get<1>(c.stream.send_now(std::array{asio::buffer(reply)}, 5)) == 5);
    }
    {
        connected c;
        c.client->close();
        const auto reply = grid::pattern(50'000);  // without SIGPIPE
        CHECK(std::get<0>(c.stream.send_now(std::array{asio::buffer(reply)}, 50'000))
              == asio::error::broken_pipe);
        c.stream.close_now();
    }
}

TEST_CASE("tls/stream: bytes that are no TLS")
{
    connected c;
    c.client->send_plainly(grid::pattern(100));
    std::array<std::byte, 100> room{};
    const auto error = std::get<0>(c.stream.receive_now(asio::buffer(room)));
    CHECK(std::error_code{error}.category() == nbd::tls::error_category());
    CHECK(std::error_code{error}.message().starts_with("TLS failed: "));
    CHECK(std::get<0>(c.stream.send_now(std::array{asio::buffer(room)}, 10)));
    c.stream.close_now();
}

TEST_CASE("tls/stream: a shutdown from another thread ends every wait")
{
    connected c;
    std::thread other{[&] { ::shutdown(c.socket.native_handle(), SHUT_RDWR); }};
    std::array<std::byte, 100> room{};
    boost::system::error_code error;
    while ((error = std::get<0>(c.stream.receive_now(asio::buffer(room))))
           == asio::error::would_block)
        nbd::io::block_until_ready(c.stream);
    other.join();
    CHECK(error == std::error_code{errc::cut_short});
}

TEST_CASE("tls/error: texts of both kinds of error")
{
    const std::error_code refused{-X509_V_ERR_CERT_HAS_EXPIRED, nbd::tls::error_category()};
    CHECK(refused.message()
          == "the certificate of the client was refused: certificate has expired");
    CHECK(std::error_code{1, nbd::tls::error_category()}.message() == "TLS failed: unknown error");
    ERR_clear_error();
    CHECK(nbd::tls::take_error() == std::errc::protocol_error);
}
