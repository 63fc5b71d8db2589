// SPDX-License-Identifier: MIT
// One server with three different exports. A fourth is added and removed while the server runs.
//     several-exports SOCKET
#include <nbd/server.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>

#include <csignal>
#include <exception>
#include <iostream>

int main(int argc, char** argv)
try {
    boost::asio::io_context program;
    boost::asio::signal_set signals{program, SIGINT, SIGTERM};

    nbd::server<nbd::unix_transport, nbd::mem_backend, nbd::strand_pool> server{
        {.path = argc > 1 ? argv[1] : "/tmp/nbd.sock"}};
    auto& exports = server.exports();
    exports.add("alpha", nbd::mem_backend{64 << 20}, {.description = "a plain disk"});
    exports.add("beta", nbd::mem_backend{16 << 20},
                {.description = "a read-only disk", .read_only = true, .rotational = true});
    exports.add(
        "gamma", nbd::mem_backend{1ULL << 40},
        {.description = "a large disk of 4 KiB blocks, without TRIM and CACHE",
         .blocks = nbd::block_sizes{.minimum = 4096, .preferred = 65536, .maximum = 1 << 20},
         .withhold = nbd::protocol::transmission_flag::send_trim
             | nbd::protocol::transmission_flag::send_cache});
    server.start();

    exports.add("delta", nbd::mem_backend{1 << 20});
    exports.remove("delta");

    for (const auto& name : exports.names())
        std::cout << "serving " << server.uri(name) << std::endl;
    signals.async_wait([](auto, int) {});
    program.run();
    server.stop();
} catch (const std::exception& e) {
    std::cerr << "several-exports: " << e.what() << '\n';
    return 1;
}
