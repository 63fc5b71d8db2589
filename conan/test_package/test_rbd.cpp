// SPDX-License-Identifier: MIT
// Links librbd, and needs no cluster: the configuration does not exist.
#include <nbd/backend/rbd_backend.hpp>

#include <cstdlib>
#include <iostream>
#include <system_error>

int main()
{
    try {
        const nbd::rbd_backend disk{
            {.pool = "rbd", .image = "disk", .ceph_conf = "/nonexistent/ceph.conf"}};
        std::cerr << "nbd: an image of no cluster was opened\n";
        return EXIT_FAILURE;
    } catch (const std::system_error& error) {
        std::cout << "nbd: the expected error: " << error.what() << '\n';
    }
    return EXIT_SUCCESS;
}
