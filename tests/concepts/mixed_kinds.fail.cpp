// SPDX-License-Identifier: MIT
// expect: nbd: either all members of a backend return boost::asio::awaitable, or none
#include <nbd/server.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

template <class T>
using awaitable = boost::asio::awaitable<T, boost::asio::any_io_executor>;

struct disk {
#ifdef NBD_FIXED
    std::uint64_t size() const { return 0; }
    awaitable<void> read(std::uint64_t, std::span<std::byte>) { co_return; }
    awaitable<void> write(std::uint64_t, std::span<const std::byte>) { co_return; }
    awaitable<void> flush() { co_return; }
#else
    std::uint64_t size() const { return 0; }
    awaitable<void> read(std::uint64_t, std::span<std::byte>) { co_return; }
    awaitable<void> write(std::uint64_t, std::span<const std::byte>) { co_return; }
    void flush() {}
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::strand_pool> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
