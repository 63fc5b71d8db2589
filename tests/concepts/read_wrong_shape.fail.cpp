// SPDX-License-Identifier: MIT
// expect: nbd: this backend's read has the wrong shape
#include <nbd/server.hpp>

struct disk {
#ifdef NBD_FIXED
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
#else
    std::uint64_t size() const { return 0; }
    void read(std::span<std::byte>, std::uint64_t) {}
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::per_client_threads> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
