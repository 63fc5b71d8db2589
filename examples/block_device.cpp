// SPDX-License-Identifier: MIT
// Your type as /dev/nbd0, until Ctrl-C. Needs root, and the kernel's module nbd (modprobe nbd).
//     block-device [DEVICE]
#include <nbd/kernel/attach.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iostream>
#include <span>
#include <vector>

class my_disk {
public:
    [[nodiscard]] std::uint64_t size() const { return bytes_.size(); }
    void read(std::uint64_t offset, std::span<std::byte> to)
    {
        std::copy_n(bytes_.data() + offset, to.size(), to.begin());
    }
    void write(std::uint64_t offset, std::span<const std::byte> from)
    {
        std::copy(from.begin(), from.end(), bytes_.data() + offset);
    }
    void flush() {}

private:
    std::vector<std::byte> bytes_ = std::vector<std::byte>(64 << 20);
};

int main(int argc, char** argv)
try {
    boost::asio::io_context program;
    boost::asio::signal_set signals{program, SIGINT, SIGTERM};
    nbd::attached device = nbd::attach(my_disk{}, {.device = argc > 1 ? argv[1] : "/dev/nbd0"});
    std::cout << device.path() << " is ready" << std::endl;
    signals.async_wait([](auto, int) {});
    program.run();
    if (const auto failed = device.detach())  // or by the destructor, which cannot say why not
        std::cerr << "block-device: " << failed.message() << '\n';
} catch (const std::exception& e) {
    std::cerr << e.what() << '\n';
    return 1;
}
