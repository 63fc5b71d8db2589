// SPDX-License-Identifier: MIT
// Links libnl, and needs no NBD client of the kernel.
#include <nbd/backend/mem_backend.hpp>
#include <nbd/kernel/attach.hpp>

#include <cstdlib>
#include <iostream>
#include <system_error>

int main()
{
    std::error_code failed;
    if (nbd::attach(nbd::mem_backend{1 << 20}, {.device = "/dev/null"}, failed)
        || failed != nbd::kernel::errc::bad_device_name) {
        std::cerr << "nbd: an unexpected result: " << failed.message() << '\n';
        return EXIT_FAILURE;
    }
    std::cout << "nbd: the expected error: " << failed.message() << '\n';
    return EXIT_SUCCESS;
}
