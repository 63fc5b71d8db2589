// SPDX-License-Identifier: MIT
// expect: nbd: this backend's cache has the wrong shape
#include <nbd/server.hpp>

struct disk {
#ifdef NBD_FIXED
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
    void cache(std::uint64_t, std::uint64_t) {}
#else
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
    int cache(std::uint64_t, std::uint64_t) { return 0; }
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::per_client_threads> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
