// SPDX-License-Identifier: MIT
// expect: nbd: this backend's open is awaited and its other members are not
#include <nbd/server.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>

struct disk {
    struct state {
        static constexpr auto concurrency = nbd::concurrency::serialize_client;
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
#ifdef NBD_FIXED
    nbd::server<nbd::unix_transport, disk, nbd::strand_pool> server{{.path = "disk.sock"}};
#else
    nbd::server<nbd::unix_transport, disk, nbd::per_client_threads> server{{.path = "disk.sock"}};
#endif
    server.exports().add("disk", disk{});
    server.run();
}
