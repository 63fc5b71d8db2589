// SPDX-License-Identifier: MIT
// expect: nbd: a backend's resize can be awaited only if its other members are awaited too
#include <nbd/server.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>

struct disk {
    static constexpr auto concurrency = nbd::concurrency::parallel;
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
#ifdef NBD_FIXED
    void resize(std::uint64_t) {}
#else
    boost::asio::awaitable<void, boost::asio::io_context::executor_type> resize(std::uint64_t)
    {
        co_return;
    }
#endif
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::strand_pool> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
