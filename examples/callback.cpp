// SPDX-License-Identifier: MIT
// A disk that is one function. It gets every request with its command, flags, cookie, offset and
// length, and answers it. (completion.cpp has a member for each command, and completes requests
// later, by callbacks.)
//     callback SOCKET
#include <nbd/backend/callback_backend.hpp>
#include <nbd/server.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <exception>
#include <iostream>
#include <span>
#include <system_error>
#include <vector>

int main(int argc, char** argv)
try {
    boost::asio::io_context program;
    boost::asio::signal_set signals{program, SIGINT, SIGTERM};

    std::vector<std::byte> disk(std::size_t{16} << 20);
    const auto on_request = [&disk](nbd::call& call) {
        const auto range = std::span{disk}.subspan(call.offset(), call.length());
        switch (call.command()) {
        case nbd::protocol::command::read:
            // The data may be sent in any number of pieces.
            call.reply();
            for (std::size_t at = 0; at < range.size(); at += 4096)
                call.send(range.subspan(at, std::min<std::size_t>(4096, range.size() - at)));
            break;
        case nbd::protocol::command::write:
            std::copy(call.payload().begin(), call.payload().end(), range.begin());
            call.reply();
            break;
        case nbd::protocol::command::trim:
        case nbd::protocol::command::write_zeroes:
            std::fill(range.begin(), range.end(), std::byte{0});
            call.reply();
            break;
        case nbd::protocol::command::flush:
            call.reply();
            break;
        default:
            call.fail(std::make_error_code(std::errc::not_supported));
        }
    };

    using backend = nbd::callback_backend<decltype(on_request)>;
    static_assert(nbd::offers<backend, nbd::can::handle>);
    nbd::server<nbd::unix_transport, backend> server{
        {.path = argc > 1 ? argv[1] : "/tmp/nbd.sock"}};
    server.exports().add("callback", backend{disk.size(), on_request},
                         {.withhold = nbd::protocol::transmission_flag::send_cache});
    server.start();
    std::cout << "serving " << server.uri("callback") << std::endl;
    signals.async_wait([](auto, int) {});
    program.run();
    server.stop();
} catch (const std::exception& e) {
    std::cerr << "callback: " << e.what() << '\n';
    return 1;
}
