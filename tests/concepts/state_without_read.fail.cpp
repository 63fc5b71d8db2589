// SPDX-License-Identifier: MIT
// expect: nbd: a backend needs `std::error_code read(std::uint64_t offset
#include <nbd/server.hpp>

struct disk {
#ifdef NBD_FIXED
    struct state {
        std::uint64_t size() const { return 0; }
        void read(std::uint64_t, std::span<std::byte>) {}
    };
    state open(const nbd::client&) { return {}; }
#else
    struct state {
        std::uint64_t size() const { return 0; }
    };
    state open(const nbd::client&) { return {}; }
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::per_client_threads> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
