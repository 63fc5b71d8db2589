// SPDX-License-Identifier: MIT
// Three disks, for clients on a UNIX socket and for clients over TCP, with and without TLS, and who
// may use what. Certificates for a try:
//   sh examples/make-certificates.sh /tmp/pki
//   tls /tmp/pki/server /tmp/disk.sock
#include <nbd/server.hpp>
#include <nbd/transport/any_of.hpp>
#include <nbd/transport/tls_transport.hpp>

#include <cstdint>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>

#include <unistd.h>

/// Says who uses which export, and why somebody may not.
struct visitors {
    void at_export_opened(const nbd::client& who, std::string_view name,
                          const nbd::protocol::export_terms&)
    {
        std::cout << who.peer << " uses " << name
                  << (who.tls ? " with " + who.tls->version + ' ' + who.tls->cipher : "")
                  << std::endl;
    }
    void at_option_error(const nbd::client& who, const nbd::protocol::option_header&,
                         const nbd::failure& why)
    {
        std::cout << who.peer << " is refused: " << why.message() << std::endl;
    }
};

int main(int argc, char** argv)
try {
    if (argc != 3 && argc != 4) {
        std::cerr << "usage: tls FOLDER-WITH-CERTIFICATES SOCKET [PORT]\n";
        return 2;
    }
    constexpr std::uint64_t size = 64 << 20;
    const auto port = static_cast<std::uint16_t>(argc == 4 ? std::atoi(argv[3]) : 10809);
    nbd::tls_credentials credentials{{.certificates = argv[1], .verify_peer = true}};
    // credentials.reload() loads the files again while the server runs.

    using local = nbd::unix_transport;
    using remote = nbd::tls_transport<nbd::tcp_transport>;
    namespace allow = nbd::allow;
    nbd::server<nbd::any_of<local, remote>, nbd::mem_backend, nbd::per_client_threads, visitors>
        server{{.listen = {local::settings{.path = argv[2]},
                           remote::settings{.over = {.port = port},
                                            .mode = nbd::tls_mode::selective,
                                            .credentials = credentials}},
                .authorise = allow::user(::getuid()) || allow::subject("CN=client")
                    || (allow::export_name("public") && allow::read_only())}};
    server.exports().emplace("public", {}, size);
    server.exports().emplace("private", {}, size);
    server.exports().emplace("remote", {.tls_only = true}, size);
    server.start();
    for (const auto& uri : server.uris("public"))
        std::cout << "serving " << uri << std::endl;
    server.wait();
} catch (const std::exception& e) {
    std::cerr << e.what() << '\n';
    return 1;
}
