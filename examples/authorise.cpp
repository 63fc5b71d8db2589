// SPDX-License-Identifier: MIT
// Who may do what: the user who started it may do everything, others of this machine may read what
// is public. A client that is refused is told that there is no such export, and the program why.
//   authorise /tmp/authorise.sock
//   nbdinfo --list nbd+unix:///?socket=/tmp/authorise.sock
#include <nbd/server.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>

#include <cstdint>
#include <exception>
#include <iostream>

#include <unistd.h>

/// Says who was refused, and why.
struct doorkeeper {
    void at_option_error(const nbd::client& who, const nbd::protocol::option_header&,
                         const nbd::failure& why)
    {
        if (why == nbd::errc::not_authorised)
            std::cerr << who.peer << " is refused: " << why.message() << '\n';
    }
};

int main(int argc, char** argv)
try {
    if (argc != 2) {
        std::cerr << "usage: authorise PATH\n";
        return 2;
    }
    constexpr std::uint64_t size = 64 << 20;
    const auto rule = nbd::allow::user(::getuid())
        || (nbd::allow::export_name("public") && nbd::allow::read_only());

    nbd::server<nbd::unix_transport, nbd::mem_backend, nbd::per_client_threads, doorkeeper> server{
        {.listen = {.path = argv[1], .mode = 0666}, .authorise = rule}};
    server.exports().emplace("public", {}, size);
    server.exports().emplace("private", {}, size);
    server.start();

    boost::asio::io_context program;
    boost::asio::signal_set signals{program, SIGINT, SIGTERM};
    signals.async_wait([](auto, int) {});
    for (const auto* const name : {"public", "private"})
        std::cout << "serving " << server.uri(name) << std::endl;
    program.run();
} catch (const std::exception& e) {
    std::cerr << e.what() << '\n';
    return 1;
}
