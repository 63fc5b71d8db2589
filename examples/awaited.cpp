// SPDX-License-Identifier: MIT
// A disk with a delay, like a remote store. Many requests of a client are in progress at the same
// time. The server and the disk run on the program's own io_context, with one thread and no lock.
#include <nbd/server.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <memory>
#include <span>
#include <system_error>
#include <vector>

namespace {

/// It has the types for Asio's operations, such as policy::awaitable. Those of strand_pool and
/// per_client_threads are the same.
using policy = nbd::on_executor<>;

class remote_disk {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;

    explicit remote_disk(std::size_t size) : bytes_(size) {}

    [[nodiscard]] std::uint64_t size() const { return bytes_.size(); }

    policy::awaitable<std::error_code> read(std::uint64_t offset, std::span<std::byte> to)
    {
        co_await round_trip();
        std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), to.size(), to.begin());
        co_return std::error_code{};
    }
    policy::awaitable<std::error_code> write(std::uint64_t offset, std::span<const std::byte> from)
    {
        co_await round_trip();
        std::copy(from.begin(), from.end(), bytes_.begin() + static_cast<std::ptrdiff_t>(offset));
        co_return std::error_code{};
    }
    policy::awaitable<void> flush() { co_await round_trip(); }

private:
    static policy::awaitable<void> round_trip()
    {
        policy::rebind<boost::asio::steady_timer> timer{co_await boost::asio::this_coro::executor,
                                                        std::chrono::milliseconds{5}};
        co_await timer.async_wait(policy::use_awaitable);
    }

    std::vector<std::byte> bytes_;
};
static_assert(nbd::offers<remote_disk, nbd::can::write, nbd::can::flush, nbd::can::parallel>);

}  // namespace

int main(int argc, char** argv)
{
    boost::asio::io_context io;
    nbd::server<nbd::unix_transport, remote_disk, policy> server{
        io, {.path = argc > 1 ? argv[1] : "/tmp/nbd.sock"}};
    server.exports().add("remote", remote_disk{64 << 20});

    boost::asio::signal_set signals{io, SIGINT, SIGTERM};
    signals.async_wait([&](auto, int) { server.stop(); });
    server.start();
    std::cout << "serving " << server.uri("remote") << std::endl;
    io.run();
}
