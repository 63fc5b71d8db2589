// SPDX-License-Identifier: MIT
// expect: nbd: a backend needs `std::uint64_t size() const`
#include <nbd/server.hpp>

struct disk {
#ifdef NBD_FIXED
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
#else
    void read(std::uint64_t, std::span<std::byte>) {}
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::per_client_threads> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
