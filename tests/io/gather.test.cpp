// SPDX-License-Identifier: MIT
// Many buffers in one system call, parts of files, and errors of a socket.
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/io/gather.hpp>

#include <boost/asio/buffer.hpp>

#include <atomic>
#include <csignal>
#include <cstring>
#include <span>
#include <thread>
#include <vector>

#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

using namespace nbd_test;
using nbd::io::send_gathered;
namespace asio = boost::asio;

namespace {

struct socket_pair {
    socket_pair() { REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0); }
    socket_pair(const socket_pair&) = delete;
    socket_pair& operator=(const socket_pair&) = delete;
    ~socket_pair()
    {
        close(0);
        close(1);
    }
    void close(int which)
    {
        if (ends[which] >= 0)
            ::close(ends[which]);
        ends[which] = -1;
    }
    bytes receive(std::size_t n)
    {
        bytes all(n);
        REQUIRE(::recv(ends[1], all.data(), n, MSG_WAITALL) == static_cast<::ssize_t>(n));
        return all;
    }
    int ends[2];
};

/// A model of an outbox for send_next.
struct gathered {
    struct part_of_file {
        struct {
            int file;
            std::uint64_t offset;
        } file;
        std::size_t length;
        [[nodiscard]] part_of_file part(std::size_t at, std::size_t n) const
        {
            return {{file.file, file.offset + at}, n};
        }
    };
    std::vector<asio::const_buffer> memory;
    part_of_file rest{{-1, 0}, 0};
    [[nodiscard]] std::span<const asio::const_buffer> pieces() const { return memory; }
    [[nodiscard]] part_of_file file() const { return rest; }
    [[nodiscard]] bool file_follows() const { return rest.length != 0; }
};

}  // namespace

TEST_CASE("io/gather: one system call sends up to 1024 buffers")
{
    socket_pair s;
    const auto content = pattern(3000);
    std::vector<asio::const_buffer> buffers;
    for (std::size_t i = 0; i < 1500; ++i)
        buffers.emplace_back(content.data() + 2 * i, 2);
    const auto [error, n] = send_gathered(s.ends[0], buffers, MSG_DONTWAIT);
    CHECK_FALSE(error);
    REQUIRE(n == 2 * nbd::io::most_gathered);
    REQUIRE(nbd::io::most_gathered == 1024);
    CHECK((s.receive(n) == bytes(content.begin(), content.begin() + 2048)));
}

TEST_CASE("io/gather: no more bytes than requested are sent")
{
    socket_pair s;
    const auto content = pattern(100);
    const std::vector<asio::const_buffer> buffers{{content.data(), 40}, {content.data() + 40, 60}};
    for (const std::size_t most : {1U, 39U, 40U, 41U, 99U, 100U, 101U}) {
        const auto [error, n] = send_gathered(s.ends[0], buffers, 0, most);
        CHECK_FALSE(error);
        REQUIRE(n == std::min<std::size_t>(most, 100));
        CHECK((s.receive(n) == bytes(content.begin(), content.begin() + static_cast<int>(n))));
    }
}

TEST_CASE("io/gather: a full socket accepts a part, then would block")
{
    socket_pair s;
    const bytes content(8 << 20);
    const std::vector<asio::const_buffer> buffers{asio::buffer(content)};
    const auto [error, n] = send_gathered(s.ends[0], buffers, MSG_DONTWAIT);
    CHECK_FALSE(error);
    CHECK(n > 0);
    CHECK(n < content.size());
    boost::system::error_code full;
    while (!full)
        std::tie(full, std::ignore) = send_gathered(s.ends[0], buffers, MSG_DONTWAIT);
    CHECK(full == asio::error::would_block);
}

TEST_CASE("io/gather: a closed connection is an error without a signal")
{
    socket_pair s;
    s.close(1);
    const bytes content(10);
    const std::vector<asio::const_buffer> buffers{asio::buffer(content)};
    struct ::sigaction before;
    struct ::sigaction defaults {};
    defaults.sa_handler = SIG_DFL;
    ::sigaction(SIGPIPE, &defaults, &before);
    const auto [error, n] = send_gathered(s.ends[0], buffers, 0);
    ::sigaction(SIGPIPE, &before, nullptr);
    CHECK(error == asio::error::broken_pipe);
    CHECK(n == 0);
}

TEST_CASE("io/gather: a signal does not end a send that waits")
{
    socket_pair s;
    const bytes content(1 << 20);
    const std::vector<asio::const_buffer> buffers{asio::buffer(content)};
    while (!std::get<0>(send_gathered(s.ends[0], buffers, MSG_DONTWAIT))) {
    }
    struct ::sigaction before;
    struct ::sigaction counts {};
    static std::atomic<int> handled{0};
    handled = 0;
    counts.sa_handler = [](int) { ++handled; };
    ::sigaction(SIGUSR1, &counts, &before);
    const auto sender = ::pthread_self();
    std::thread other{[&] {
        while (handled == 0) {  // until one signal has arrived, in the waiting send or before it
            ::pthread_kill(sender, SIGUSR1);
            std::this_thread::yield();
        }
        bytes room(1 << 20);
        while (::recv(s.ends[1], room.data(), room.size(), 0) > 0) {
        }
    }};
    const auto [error, n] = send_gathered(s.ends[0], buffers, 0, 1000);
    CHECK_FALSE(error);
    CHECK(n > 0);
    s.close(0);
    other.join();
    ::sigaction(SIGUSR1, &before, nullptr);
}

TEST_CASE("io/gather: a part of a file is sent after the memory before it")
{
    socket_pair s;
    const auto content = pattern(5000);
    const int file = ::memfd_create("nbd", MFD_CLOEXEC);
    REQUIRE(::write(file, content.data(), content.size()) == 5000);
    gathered out{{asio::buffer(content.data(), 10)}, {{file, 100}, 3000}};
    auto [error, n] = nbd::io::send_next(s.ends[0], out, MSG_DONTWAIT);
    CHECK_FALSE(error);
    CHECK(n == 10);
    CHECK((s.receive(10) == bytes(content.begin(), content.begin() + 10)));
    out.memory.clear();
    std::tie(error, n) = nbd::io::send_next(s.ends[0], out, MSG_DONTWAIT, 1000);
    CHECK_FALSE(error);
    CHECK(n == 1000);
    CHECK((s.receive(1000) == bytes(content.begin() + 100, content.begin() + 1100)));
    out.rest = {{file, 5000}, 1};
    std::tie(error, n) = nbd::io::send_next(s.ends[0], out, MSG_DONTWAIT);
    CHECK(error == asio::error::eof);
    ::close(file);
}
