// SPDX-License-Identifier: MIT
// A disk for clients with TLS, and one that everybody can read. Certificates for a try:
//   sh examples/make-certificates.sh /tmp/pki
//   tls /tmp/pki/server
//   nbdinfo 'nbds://localhost/private?tls-certificates=/tmp/pki/client'
#include <nbd/server.hpp>
#include <nbd/transport/tls_transport.hpp>

#include <cstdint>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>

/// Says who uses which export.
struct visitors {
    void at_export_opened(const nbd::client& who, std::string_view name,
                          const nbd::protocol::export_terms&)
    {
        std::cout << who.peer << " uses " << name
                  << (who.tls ? " with " + who.tls->version + ' ' + who.tls->cipher : "")
                  << std::endl;
    }
};

int main(int argc, char** argv)
try {
    if (argc != 2 && argc != 3) {
        std::cerr << "usage: tls FOLDER-WITH-CERTIFICATES [PORT]\n";
        return 2;
    }
    constexpr std::uint64_t size = 64 << 20;
    const auto port = argc == 3 ? std::atoi(argv[2]) : 10809;
    nbd::tls_credentials credentials{nbd::tls_files{.certificates = argv[1]}};
    // credentials.reload() loads the files again while the server runs.

    nbd::server<nbd::tls_transport<nbd::tcp_transport>, nbd::mem_backend, nbd::per_client_threads,
                visitors>
        server{{.over = {.port = static_cast<std::uint16_t>(port)},
                .mode = nbd::tls_mode::selective,
                .credentials = credentials}};
    server.exports().emplace("private", {.tls_only = true}, size);
    server.exports().emplace("public", {.read_only = true}, size);
    server.start();
    std::cout << "serving " << server.uri("private") << std::endl;
    server.wait();
} catch (const std::exception& e) {
    std::cerr << e.what() << '\n';
    return 1;
}
