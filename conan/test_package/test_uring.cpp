// SPDX-License-Identifier: MIT
// Links liburing, and needs no io_uring of the kernel: where that is refused, the error says so.
#include <nbd/backend/uring_file_backend.hpp>

#include <cstdlib>
#include <iostream>
#include <system_error>

int main()
{
    try {
        const nbd::uring_file_backend disk{"/nonexistent/disk.img"};
        std::cerr << "nbd: a file that does not exist was opened\n";
        return EXIT_FAILURE;
    } catch (const std::system_error& error) {
        std::cout << "nbd: the expected error: " << error.what() << '\n';
    }
    return EXIT_SUCCESS;
}
