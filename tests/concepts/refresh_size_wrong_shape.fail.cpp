// SPDX-License-Identifier: MIT
// expect: nbd: this backend's refresh_size has the wrong shape
#include <nbd/server.hpp>

struct disk {
#ifdef NBD_FIXED
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
    std::uint64_t refresh_size() noexcept { return 0; }
#else
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
    std::uint64_t refresh_size() { return 0; }
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::per_client_threads> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
