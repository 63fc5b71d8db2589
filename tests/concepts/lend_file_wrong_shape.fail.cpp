// SPDX-License-Identifier: MIT
// expect: nbd: this backend's lend_file has the wrong shape
#include <nbd/server.hpp>

struct disk {
#ifdef NBD_FIXED
    static constexpr auto concurrency = nbd::concurrency::parallel;
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
    nbd::file_range lend_file(std::uint64_t, std::size_t) noexcept { return {}; }
#else
    static constexpr auto concurrency = nbd::concurrency::parallel;
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
    int lend_file(std::uint64_t, std::size_t) noexcept { return -1; }
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::per_client_threads> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
