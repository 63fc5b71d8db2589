// SPDX-License-Identifier: MIT
// expect: nbd: a backend whose members are awaited can be resized at any time
#include <nbd/server.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

template <class T>
using awaitable = boost::asio::awaitable<T, boost::asio::any_io_executor>;

struct disk {
#ifdef NBD_FIXED
    static constexpr auto concurrency = nbd::concurrency::parallel;
    std::uint64_t size() const { return 0; }
    awaitable<void> read(std::uint64_t, std::span<std::byte>) { co_return; }
    void resize(std::uint64_t) {}
#else
    std::uint64_t size() const { return 0; }
    awaitable<void> read(std::uint64_t, std::span<std::byte>) { co_return; }
    void resize(std::uint64_t) {}
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::strand_pool> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
