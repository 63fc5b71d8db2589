// SPDX-License-Identifier: MIT
// nbd-tls-streams: nbd::tls::stream beside boost::asio::ssl::stream, in the same loop and with the
// same certificate. A client on a thread of its own asks for blocks; the coroutine of the server
// sends them.
#include <nbd/io/asynchronous.hpp>
#include <nbd/tls/credentials.hpp>
#include <nbd/tls/stream.hpp>

#include <CLI/CLI.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/local/connect_pair.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include <openssl/ssl.h>

namespace {

namespace asio = boost::asio;
using executor = asio::io_context::executor_type;
using socket_type = asio::basic_stream_socket<asio::local::stream_protocol, executor>;
using context_type = std::shared_ptr<const nbd::tls::context>;
constexpr std::size_t request_bytes = 28;
constexpr std::size_t reply_header_bytes = 16;

/// A server's side by nbd::tls::stream, as the sessions use it.
struct ours {
    static constexpr const char* name = "nbd::tls::stream";
    using io = nbd::io::asynchronous<executor>;

    ours(socket_type& socket, const context_type& from) : stream{socket, from} {}

    asio::awaitable<void, executor> start()
    {
        auto failed = stream.handshake_now();
        while (failed == asio::error::would_block) {
            std::tie(failed) = co_await io::wait_ready(stream);
            if (!failed)
                failed = stream.handshake_now();
        }
        if (failed)
            throw boost::system::system_error{failed};
    }
    asio::awaitable<std::size_t, executor> read(asio::mutable_buffer to)
    {
        const auto [failed, n] = co_await io::read_some(stream, to);
        co_return failed ? 0 : n;
    }
    asio::awaitable<bool, executor> write(const std::vector<asio::const_buffer>& all)
    {
        auto rest = all;
        while (!rest.empty()) {
            auto [failed, n] = stream.send_now(rest, asio::buffer_size(rest));
            if (failed == asio::error::would_block)
                std::tie(failed) = co_await io::wait_ready(stream);
            if (failed)
                co_return false;
            auto at = rest.begin();
            for (; at != rest.end() && n >= at->size(); ++at)
                n -= at->size();
            rest.erase(rest.begin(), at);
            if (!rest.empty())
                rest.front() += n;
        }
        co_return true;
    }

    nbd::tls::stream<socket_type> stream;
};

/// The same by boost::asio::ssl::stream.
struct of_asio {
    static constexpr const char* name = "boost::asio::ssl::stream";

    of_asio(socket_type& socket, const context_type& from)
        : context{(::SSL_CTX_up_ref(from->get()), from->get())}, stream{socket, context}
    {
    }

    asio::awaitable<void, executor> start()
    {
        co_await stream.async_handshake(asio::ssl::stream_base::server,
                                        asio::use_awaitable_t<executor>{});
    }
    asio::awaitable<std::size_t, executor> read(asio::mutable_buffer to)
    {
        try {
            co_return co_await stream.async_read_some(to, asio::use_awaitable_t<executor>{});
        } catch (const boost::system::system_error&) {
            co_return 0;
        }
    }
    asio::awaitable<bool, executor> write(const std::vector<asio::const_buffer>& all)
    {
        try {
            co_await asio::async_write(stream, all, asio::use_awaitable_t<executor>{});
            co_return true;
        } catch (const boost::system::system_error&) {
            co_return false;
        }
    }

    asio::ssl::context context;
    asio::ssl::stream<socket_type&> stream;
};

/// Answers requests of 28 bytes with a header of 16 and `block` bytes, all that are there at once.
template <class Side>
asio::awaitable<void, executor> serve(Side& side, std::size_t block)
{
    co_await side.start();
    std::vector<std::byte> received(64 * 1024);
    const std::vector<std::byte> payload(block, std::byte{7});
    const std::vector<std::byte> header(reply_header_bytes);
    std::vector<asio::const_buffer> replies;
    std::size_t partial = 0;
    while (const auto n = co_await side.read(asio::buffer(received))) {
        replies.clear();
        for (partial += n; partial >= request_bytes; partial -= request_bytes) {
            replies.push_back(asio::buffer(header));
            replies.push_back(asio::buffer(payload));
        }
        if (!co_await side.write(replies))
            break;
    }
}

/// A client that keeps `depth` requests in flight. *Returns* blocks per second.
double ask(int fd, std::size_t block, std::size_t depth, std::chrono::duration<double> time)
{
    const std::unique_ptr<::SSL_CTX, decltype(&::SSL_CTX_free)> context{
        ::SSL_CTX_new(::TLS_client_method()), &::SSL_CTX_free};
    const std::unique_ptr<::SSL, decltype(&::SSL_free)> ssl{::SSL_new(context.get()), &::SSL_free};
    ::SSL_set_fd(ssl.get(), fd);
    if (::SSL_connect(ssl.get()) != 1)
        throw std::runtime_error{"the TLS handshake has failed"};
    const std::vector<std::byte> requests(request_bytes * depth);
    std::vector<std::byte> replies((reply_header_bytes + block) * depth);
    const auto begin = std::chrono::steady_clock::now();
    double blocks = 0;
    while (std::chrono::steady_clock::now() - begin < time) {
        if (::SSL_write(ssl.get(), requests.data(), static_cast<int>(requests.size())) <= 0)
            throw std::runtime_error{"a request was not sent"};
        for (std::size_t got = 0; got < replies.size();) {
            const int n =
                ::SSL_read(ssl.get(), replies.data() + got, static_cast<int>(replies.size() - got));
            if (n <= 0)
                throw std::runtime_error{"a reply was not received"};
            got += static_cast<std::size_t>(n);
        }
        blocks += static_cast<double>(depth);
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - begin;
    ::SSL_shutdown(ssl.get());
    return blocks / elapsed.count();
}

template <class Side>
double measure(const context_type& with, std::size_t block, std::size_t depth,
               std::chrono::duration<double> time)
{
    asio::io_context io{1};
    socket_type server{io};
    asio::local::stream_protocol::socket client{io};
    {
        asio::local::stream_protocol::socket end{io};
        asio::local::connect_pair(end, client);
        server.assign({}, end.release());
    }
    server.set_option(asio::socket_base::send_buffer_size{2 << 20});
    Side side{server, with};
    std::exception_ptr failed;
    asio::co_spawn(io, serve(side, block), [&](std::exception_ptr e) {
        failed = e;
        server.close();
    });
    std::thread runs{[&] { io.run(); }};
    double rate = 0;
    std::exception_ptr client_failed;
    try {
        client.native_non_blocking(false);
        rate = ask(client.native_handle(), block, depth, time);
    } catch (...) {
        client_failed = std::current_exception();
    }
    client.close();
    runs.join();
    for (const auto& thrown : {failed, client_failed})
        if (thrown)
            std::rethrow_exception(thrown);
    return rate;
}

double median(std::vector<double> all)
{
    std::sort(all.begin(), all.end());
    return all[all.size() / 2];
}

}  // namespace

int main(int argc, char** argv)
{
    std::string certificates;
    int rounds = 5;
    double seconds = 1;
    CLI::App app{"Compares nbd::tls::stream with boost::asio::ssl::stream.", "nbd-tls-streams"};
    app.add_option("FOLDER", certificates, "server-cert.pem and server-key.pem")->required();
    app.add_option("--rounds", rounds)->capture_default_str()->check(CLI::Range(1, 1000));
    app.add_option("--seconds", seconds, "of each measurement")
        ->capture_default_str()
        ->check(CLI::Range(0.001, 3600.0));
    CLI11_PARSE(app, argc, argv);
    try {
        const nbd::tls_credentials credentials{{.certificates = certificates}};
        for (const auto& [block, depth] : {std::pair{4096UL, 16UL}, std::pair{1UL << 20, 1UL}}) {
            std::vector<double> mine;
            std::vector<double> theirs;
            std::vector<double> ratios;
            for (int i = 0; i < rounds; ++i) {
                const std::chrono::duration<double> time{seconds};
                mine.push_back(measure<ours>(credentials.current(), block, depth, time));
                theirs.push_back(measure<of_asio>(credentials.current(), block, depth, time));
                ratios.push_back(mine.back() / theirs.back());
            }
            std::printf("%7lu bytes, depth %2lu: %s %.0f/s, %s %.0f/s, ratio %.2f (%.2f to %.2f)\n",
                        block, depth, ours::name, median(mine), of_asio::name, median(theirs),
                        median(ratios), *std::min_element(ratios.begin(), ratios.end()),
                        *std::max_element(ratios.begin(), ratios.end()));
        }
        return 0;
    } catch (const std::exception& e) {
        std::fprintf(stderr, "nbd-tls-streams: %s\n", e.what());
        return 1;
    }
}
