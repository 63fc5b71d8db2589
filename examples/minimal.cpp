// SPDX-License-Identifier: MIT
// The program of the README: 500 MB of memory, exported as "test" on a UNIX socket.
#include <nbd/server.hpp>

#include <iostream>

int main(int argc, char** argv)
{
    nbd::server<nbd::unix_transport, nbd::mem_backend, nbd::per_client_threads> server{
        {.path = argc > 1 ? argv[1] : "/tmp/nbd.sock"}};
    server.exports().add("test", nbd::mem_backend{500'000'000});
    server.start();
    std::cout << "serving " << server.uri("test") << std::endl;
    server.wait();
}
