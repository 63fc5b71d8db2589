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
    void read(std::uint64_t, std::span<std::byte>) {}
    void extents(std::uint64_t, std::uint64_t, nbd::extent_list&) {}
#else
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
    awaitable<void> extents(std::uint64_t, std::uint64_t, nbd::extent_list&) { co_return; }
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::per_client_threads> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
