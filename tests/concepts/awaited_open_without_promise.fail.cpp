// SPDX-License-Identifier: MIT
// expect: nbd: an `open` that is awaited cannot hold the lock
#include <nbd/server.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>

struct disk {
    struct state {
#ifdef NBD_FIXED
        static constexpr auto concurrency = nbd::concurrency::serialize_client;
#endif
        std::uint64_t size() const { return 0; }
        void read(std::uint64_t, std::span<std::byte>) {}
    };
    boost::asio::awaitable<state, boost::asio::io_context::executor_type> open(const nbd::client&)
    {
        co_return state{};
    }
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::strand_pool> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
