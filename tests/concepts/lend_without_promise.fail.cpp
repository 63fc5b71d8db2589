// SPDX-License-Identifier: MIT
// expect: nbd: lent memory is used outside any lock, so a backend that lends must promise
#include <nbd/server.hpp>

struct disk {
#ifdef NBD_FIXED
    static constexpr auto concurrency = nbd::concurrency::parallel;
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
    std::span<const std::byte> lend(std::uint64_t, std::size_t) noexcept { return {}; }
#else
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
    std::span<const std::byte> lend(std::uint64_t, std::size_t) noexcept { return {}; }
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::per_client_threads> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
