// SPDX-License-Identifier: MIT
// expect: nbd: blocks, cancellable, multi_conn, rotational, fast_zero and fills_reads are promised as
#include <nbd/server.hpp>

struct disk {
#ifdef NBD_FIXED
    static constexpr bool blocks = true;
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
#else
    bool blocks() const { return true; }
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::strand_pool> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
