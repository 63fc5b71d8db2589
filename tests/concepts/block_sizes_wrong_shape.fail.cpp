// SPDX-License-Identifier: MIT
// expect: nbd: this backend's block_sizes has the wrong shape
#include <nbd/server.hpp>

struct disk {
#ifdef NBD_FIXED
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
    nbd::block_sizes block_sizes() const { return {}; }
#else
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
    nbd::block_sizes block_sizes() { return {}; }
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::per_client_threads> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
