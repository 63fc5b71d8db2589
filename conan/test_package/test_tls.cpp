// SPDX-License-Identifier: MIT
// Links OpenSSL.
#include <nbd/transport/tls_transport.hpp>

#include <cstdlib>
#include <iostream>
#include <system_error>

int main()
{
    try {
        const nbd::tls_credentials credentials{nbd::tls_files{.certificates = "/nonexistent"}};
        std::cerr << "nbd: files that do not exist were loaded\n";
        return EXIT_FAILURE;
    } catch (const std::system_error& error) {
        std::cout << "nbd: the expected error: " << error.what() << '\n';
    }
    return EXIT_SUCCESS;
}
