// SPDX-License-Identifier: MIT
// The store for remote_cache.cpp: a file, by TCP on the loopback address. A thread serves each
// connection. It handles no signals, and may be killed at any time.
//
//     remote-store FILE [PORT]
#include "remote_store.hpp"

#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <iostream>
#include <mutex>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

/// A file whose changes stay in memory until a sync: a store that is killed loses the others, as a
/// machine that loses its power does.
class disk {
public:
    explicit disk(const char* path) : file_{::open(path, O_RDWR | O_CLOEXEC)}
    {
        const auto size = ::lseek(file_, 0, SEEK_END);
        if (size > 0)
            bytes_ = {
                static_cast<std::byte*>(::mmap(nullptr, static_cast<std::size_t>(size),
                                               PROT_READ | PROT_WRITE, MAP_PRIVATE, file_, 0)),
                static_cast<std::size_t>(size)};
        if (size <= 0 || bytes_.data() == MAP_FAILED)
            throw std::system_error{size == 0 ? EINVAL : errno, std::generic_category(), path};
    }

    [[nodiscard]] std::uint64_t size() const { return bytes_.size(); }

    /// *Returns* 0 or an errno value.
    int execute(const remote::request& r, std::span<std::byte> data)
    {
        if (r.offset > size() || r.length > size() - r.offset)
            return EINVAL;
        const std::scoped_lock lock{mutex_};
        const auto part = bytes_.subspan(static_cast<std::size_t>(r.offset), r.length);
        switch (remote::operation{static_cast<std::uint32_t>(r.what)}) {
        case remote::operation::get:
            std::ranges::copy(part, data.begin());
            return 0;
        case remote::operation::put:
            changed_.push_back(part);
            std::ranges::copy(data, part.begin());
            return 0;
        case remote::operation::sync:
            return sync();
        }
        return EINVAL;
    }

private:
    int sync()
    {
        for (; !changed_.empty(); changed_.pop_back()) {
            for (auto part = changed_.back(); !part.empty();) {
                const auto written =
                    ::pwrite(file_, part.data(), part.size(), part.data() - bytes_.data());
                if (written < 0)
                    return errno;
                part = part.subspan(static_cast<std::size_t>(written));
            }
        }
        return ::fdatasync(file_) == 0 ? 0 : errno;
    }

    int file_;
    std::span<std::byte> bytes_;
    std::mutex mutex_;
    std::vector<std::span<std::byte>> changed_;
};

void serve(tcp::socket client, disk& disk)
try {
    client.set_option(tcp::no_delay{true});
    const remote::greeting hello{.magic = remote::greeting::expected_magic, .size = disk.size()};
    asio::write(client, asio::buffer(&hello, sizeof hello));
    for (std::vector<std::byte> data;;) {
        remote::request asked;
        asio::read(client, asio::buffer(&asked, sizeof asked));
        if (asked.length > remote::request::max_length)
            return;
        const auto what = remote::operation{static_cast<std::uint32_t>(asked.what)};
        data.resize(asked.length);
        if (what == remote::operation::put)
            asio::read(client, asio::buffer(data));
        const auto error = static_cast<std::uint32_t>(disk.execute(asked, data));
        const remote::reply answer{.error = error};
        asio::write(client, asio::buffer(&answer, sizeof answer));
        if (what == remote::operation::get && error == 0)
            asio::write(client, asio::buffer(data));
    }
} catch (const std::exception&) {  // the client has disconnected
}

}  // namespace

int main(int argc, char** argv)
try {
    if (argc < 2 || argc > 3) {
        std::cerr << "usage: remote-store FILE [PORT]\n";
        return 2;
    }
    disk served{argv[1]};
    const auto port = argc > 2 ? std::stoi(argv[2]) : 0;

    asio::io_context io;
    tcp::acceptor acceptor{
        io, {asio::ip::address_v4::loopback(), static_cast<asio::ip::port_type>(port)}};
    std::cout << "serving " << acceptor.local_endpoint() << std::endl;
    for (;;)
        std::thread{serve, acceptor.accept(), std::ref(served)}.detach();
} catch (const std::exception& e) {
    std::cerr << "remote-store: " << e.what() << '\n';
    return 1;
}
