// SPDX-License-Identifier: MIT
// expect: nbd: this backend's awaitable is of an executor that the policy's clients do not have
#include <nbd/server.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>

struct disk {
#ifdef NBD_FIXED
    using executor = boost::asio::io_context::executor_type;
#else
    using executor = boost::asio::strand<boost::asio::io_context::executor_type>;
#endif
    struct state {
        static constexpr auto concurrency = nbd::concurrency::serialize_client;
        std::uint64_t size() const { return 0; }
        void read(std::uint64_t, std::span<std::byte>) {}
    };
    boost::asio::awaitable<state, executor> open(const nbd::client&) { co_return state{}; }
};

int main()
{
    nbd::server<nbd::unix_transport, disk, nbd::strand_pool> server{{.path = "disk.sock"}};
    server.exports().add("disk", disk{});
    server.run();
}
