// SPDX-License-Identifier: MIT
// Two backends. The first has only the required members, `size` and `read`. The second is a disk
// with broken sectors: each of its members becomes an ability that clients see.
//     your-own-backend SOCKET
#include <nbd/server.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iostream>
#include <span>
#include <string>
#include <system_error>
#include <vector>

// Every byte is the low byte of its offset. It has no `write`, so the export is read-only. It makes
// no promise about threads, so the server calls it under a lock.
class pattern {
public:
    [[nodiscard]] std::uint64_t size() const { return 1 << 20; }

    void read(std::uint64_t offset, std::span<std::byte> to)
    {
        for (auto& byte : to)
            byte = static_cast<std::byte>(offset++);
    }
};
static_assert(nbd::offers<pattern>);  // it can be read, and no more

// A disk whose last quarter is broken, for testing how clients handle errors. The client gets an
// error value, and the connection stays open.
class breaking_disk {
public:
    explicit breaking_disk(std::size_t size) : bytes_(size) {}

    [[nodiscard]] std::uint64_t size() const { return bytes_.size(); }

    std::error_code read(std::uint64_t offset, std::span<std::byte> to)
    {
        if (broken(offset, to.size()))
            return std::make_error_code(std::errc::io_error);
        std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), to.size(), to.begin());
        return {};
    }
    std::error_code write(std::uint64_t offset, std::span<const std::byte> from)
    {
        if (broken(offset, from.size()))
            return std::make_error_code(std::errc::no_space_on_device);
        std::copy(from.begin(), from.end(), bytes_.begin() + static_cast<std::ptrdiff_t>(offset));
        return {};
    }
    std::error_code flush() { return {}; }
    std::error_code trim(std::uint64_t offset, std::uint64_t length)
    {
        if (broken(offset, length))
            return std::make_error_code(std::errc::io_error);
        std::fill_n(bytes_.begin() + static_cast<std::ptrdiff_t>(offset), length, std::byte{0});
        return {};
    }

private:
    [[nodiscard]] bool broken(std::uint64_t offset, std::uint64_t length) const
    {
        return offset + length > bytes_.size() / 4 * 3;
    }
    std::vector<std::byte> bytes_;
};
// A misspelled member is no ability: this says which ones are meant, and the compiler compares.
static_assert(nbd::offers<breaking_disk, nbd::can::write, nbd::can::flush, nbd::can::trim>);

int main(int argc, char** argv)
try {
    boost::asio::io_context program;
    boost::asio::signal_set signals{program, SIGINT, SIGTERM};

    const std::string path = argc > 1 ? argv[1] : "/tmp/nbd.sock";
    nbd::server<nbd::unix_transport, breaking_disk> disks{{.path = path}};
    disks.exports().emplace("broken", {}, std::size_t{64} << 20);
    disks.start();
    nbd::server<nbd::unix_transport, pattern, nbd::strand_pool> patterns{
        {.path = path + ".pattern"}};
    patterns.exports().add("pattern", pattern{});
    patterns.start();

    std::cout << "serving " << disks.uri("broken") << "\nserving " << patterns.uri("pattern")
              << std::endl;
    signals.async_wait([](auto, int) {});
    program.run();
} catch (const std::exception& e) {
    std::cerr << "your-own-backend: " << e.what() << '\n';
    return 1;
}
