// SPDX-License-Identifier: MIT
// expect: nbd: this backend's write has the wrong shape
#include <nbd/server.hpp>

struct disk {
    std::uint64_t size() const { return 0; }
#ifdef NBD_FIXED
    void read(std::uint64_t, std::span<std::byte>) {}
    void write(std::uint64_t, std::span<const std::byte>, const nbd::write_flags&) {}
#else
    void read(std::uint64_t, std::span<std::byte>) {}
    void write(std::uint64_t, std::span<const std::byte>, nbd::write_flags&&) {}
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::per_client_threads> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
