// SPDX-License-Identifier: MIT
// A disk whose requests are completed by callbacks, on a thread of the backend: members async_...
// with an nbd::completion. (callback.cpp is another form: one function for all requests.)
//     completion SOCKET
#include <nbd/server.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/thread_pool.hpp>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iostream>
#include <memory>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

namespace {

/// In place of a library that takes a callback. One thread, so the data need no lock.
class storage {
public:
    explicit storage(std::size_t size) : bytes_(size) {}

    [[nodiscard]] std::size_t size() const { return bytes_.size(); }
    template <class Callback>
    void get(std::uint64_t offset, std::span<std::byte> to, Callback callback)
    {
        boost::asio::post(thread_, [=, this, callback = std::move(callback)]() mutable {
            std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), to.size(),
                        to.begin());
            callback(std::error_code{});
        });
    }
    template <class Callback>
    void put(std::uint64_t offset, std::span<const std::byte> from, Callback callback)
    {
        boost::asio::post(thread_, [=, this, callback = std::move(callback)]() mutable {
            std::copy(from.begin(), from.end(),
                      bytes_.begin() + static_cast<std::ptrdiff_t>(offset));
            callback(std::error_code{});
        });
    }

private:
    std::vector<std::byte> bytes_;
    boost::asio::thread_pool thread_{1};
};

class disk {
public:
    /// Many requests of a client are in flight at a time.
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;

    explicit disk(std::size_t size) : storage_{std::make_unique<storage>(size)} {}

    [[nodiscard]] std::uint64_t size() const { return storage_->size(); }
    /// The spans are valid until `done` is called. A `done` that is destroyed without a call is an
    /// error for the client.
    void async_read(std::uint64_t offset, std::span<std::byte> to, nbd::completion done)
    {
        storage_->get(offset, to, [done = std::move(done)](std::error_code e) mutable { done(e); });
    }
    void async_write(std::uint64_t offset, std::span<const std::byte> from, nbd::completion done)
    {
        storage_->put(offset, from,
                      [done = std::move(done)](std::error_code e) mutable { done(e); });
    }

private:
    std::unique_ptr<storage> storage_;
};
static_assert(nbd::offers<disk, nbd::can::write, nbd::can::parallel>);

}  // namespace

int main(int argc, char** argv)
try {
    boost::asio::io_context program;
    boost::asio::signal_set signals{program, SIGINT, SIGTERM};

    nbd::server<nbd::unix_transport, disk, nbd::strand_pool> server{
        {.path = argc > 1 ? argv[1] : "/tmp/nbd.sock"}};
    server.exports().add("disk", disk{std::size_t{16} << 20});
    server.start();
    std::cout << "serving " << server.uri("disk") << std::endl;
    signals.async_wait([](auto, int) {});
    program.run();
    server.stop();
} catch (const std::exception& e) {
    std::cerr << "completion: " << e.what() << '\n';
    return 1;
}
