// SPDX-License-Identifier: MIT
// A 100 MB disk in memory on a UNIX socket, which a signal ends. Attach it to the kernel with
//     nbd-client -unix /tmp/nbd.sock /dev/nbd0 -name test
// and take it for any disk: fdisk -l /dev/nbd0, mkfs.ext4 /dev/nbd0, mount /dev/nbd0 /mnt.
#include <nbd/server.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>

#include <csignal>
#include <exception>
#include <iostream>

int main(int argc, char** argv)
try {
    // The library handles no signals. Install the handlers first, so that no signal is lost.
    boost::asio::io_context program;
    boost::asio::signal_set signals{program, SIGINT, SIGTERM};

    nbd::server<nbd::unix_transport, nbd::mem_backend, nbd::per_client_threads> server{
        {.path = argc > 1 ? argv[1] : "/tmp/nbd.sock"}};
    server.exports().add("test", nbd::mem_backend{100'000'000},
                         {.description = "100 MB that are gone when the server ends"});
    server.start();
    std::cout << "serving " << server.uri("test") << std::endl;

    signals.async_wait([](auto, int) {});
    program.run();
    server.stop();
} catch (const std::exception& e) {
    std::cerr << "simple-in-memory: " << e.what() << '\n';
    return 1;
}
