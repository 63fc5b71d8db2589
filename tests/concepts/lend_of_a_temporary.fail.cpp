// SPDX-License-Identifier: MIT
// expect: nbd: this backend's lend has the wrong shape
#include <nbd/server.hpp>

struct disk {
    std::uint64_t size() const { return 0; }
#ifdef NBD_FIXED
    static constexpr auto concurrency = nbd::concurrency::parallel;
    void read(std::uint64_t, std::span<std::byte>) {}
    std::span<const std::byte> lend(std::uint64_t, std::size_t) noexcept { return {}; }
#else
    static constexpr auto concurrency = nbd::concurrency::parallel;
    void read(std::uint64_t, std::span<std::byte>) {}
    std::vector<std::byte> lend(std::uint64_t, std::size_t) noexcept { return {}; }
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::per_client_threads> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
