// SPDX-License-Identifier: MIT
// server POLICY PATH BYTES: serves a disk that lends no memory, with a server_memory of BYTES,
// until SIGTERM.
#include <nbd/server.hpp>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <span>
#include <string_view>

namespace {

/// Each READ fills memory of the server.
struct plain_disk {
    static constexpr auto concurrency = nbd::concurrency::parallel;
    [[nodiscard]] static std::uint64_t size() noexcept { return 64 << 20; }
    static void read(std::uint64_t, std::span<std::byte> to)
    {
        std::ranges::fill(to, std::byte{7});
    }
};

template <class Policy>
int serve(const char* path, std::size_t memory)
{
    ::sigset_t ends;
    ::sigemptyset(&ends);
    ::sigaddset(&ends, SIGTERM);
    ::pthread_sigmask(SIG_BLOCK, &ends, nullptr);  // the server's threads inherit this
    nbd::settings limits;
    limits.max_connections = 0;
    limits.server_memory = memory;
    nbd::server<nbd::unix_transport, plain_disk, Policy> server{{.path = path}, limits};
    server.exports().add("", plain_disk{});
    server.start();
    std::printf("serving %s\n", server.uri("").c_str());
    std::fflush(stdout);
    int which = 0;
    ::sigwait(&ends, &which);
    return 0;
}

}  // namespace

int main(int argc, char** argv)
{
    if (argc != 4)
        return 2;
    try {
        const auto memory = static_cast<std::size_t>(std::strtoull(argv[3], nullptr, 10));
        return std::string_view{argv[1]} == "pool"
            ? serve<nbd::strand_pool>(argv[2], memory)
            : serve<nbd::per_client_threads>(argv[2], memory);
    } catch (const std::exception& e) {
        std::fprintf(stderr, "%s\n", e.what());
        return 1;
    }
}
