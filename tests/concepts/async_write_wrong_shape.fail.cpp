// SPDX-License-Identifier: MIT
// expect: nbd: this backend's async_write has the wrong shape; expected
#include <nbd/server.hpp>

struct disk {
    std::uint64_t size() const { return 0; }
#ifdef NBD_FIXED
    void async_read(std::uint64_t, std::span<std::byte>, nbd::completion done) { done(); }
    void async_write(std::uint64_t, std::span<const std::byte>, nbd::completion done) { done(); }
#else
    void async_read(std::uint64_t, std::span<std::byte>, nbd::completion done) { done(); }
    void async_write(std::uint64_t, std::span<std::byte>, nbd::completion done) { done(); }
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::per_client_threads> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
