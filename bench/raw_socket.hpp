// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <system_error>
#include <utility>

#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

/// A socket for the clients of the benchmarks: plain system calls, so that mostly the server is
/// measured.
namespace bench {

/// Whether a call waits for the socket or returns at once.
enum class patience { waits, at_once };

/// A connected socket. Errors: std::system_error; std::runtime_error if the peer closes the
/// connection or sends nothing for 20 s.
class raw_socket {
public:
    raw_socket(const ::sockaddr* to, ::socklen_t bytes)
        : fd_{::socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0)}
    {
        check(fd_, "socket");
        try {
            const ::timeval longest{.tv_sec = longest_wait, .tv_usec = 0};
            set(SOL_SOCKET, SO_RCVTIMEO, longest);
            set(SOL_SOCKET, SO_SNDTIMEO, longest);
            if (to->sa_family == AF_UNIX)
                set(SOL_SOCKET, SO_SNDBUF, 2 << 20);
            else
                set(IPPROTO_TCP, TCP_NODELAY, 1);
            check(::connect(fd_, to, bytes), "connect");
        } catch (...) {
            ::close(fd_);
            throw;
        }
    }
    raw_socket(raw_socket&& other) noexcept : fd_{std::exchange(other.fd_, -1)} {}
    raw_socket& operator=(raw_socket&&) = delete;
    ~raw_socket()
    {
        if (fd_ >= 0)
            ::close(fd_);
    }

    [[nodiscard]] int native_handle() const noexcept { return fd_; }

    /// Sends as much of `pieces`, in order, as the socket accepts. Returns the bytes; 0 if it would
    /// have to wait. Uses at most IOV_MAX pieces.
    [[nodiscard]] std::size_t send_some(std::span<::iovec> pieces, patience p)
    {
        ::msghdr message{};
        message.msg_iov = pieces.data();
        message.msg_iovlen = std::min(pieces.size(), std::size_t{IOV_MAX});
        return transferred([&] { return ::sendmsg(fd_, &message, MSG_NOSIGNAL | flags(p)); }, p,
                           "send");
    }
    void send(std::span<const std::byte> bytes)
    {
        while (!bytes.empty())
            bytes = bytes.subspan(transferred(
                [&] { return ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL); }, {}, "send"));
    }

    /// Returns the bytes; 0 if it would have to wait.
    [[nodiscard]] std::size_t receive_some(std::span<std::byte> to, patience p = patience::waits)
    {
        bool ended = false;
        const auto receive = [&] {
            const auto n = ::recv(fd_, to.data(), to.size(), flags(p));
            ended = n == 0;
            return n;
        };
        const auto n = transferred(receive, p, "recv");
        if (ended)
            throw std::runtime_error{"the server has closed the connection"};
        return n;
    }
    void receive(std::span<std::byte> to)
    {
        while (!to.empty())
            to = to.subspan(receive_some(to));
    }
    /// Waits until the peer closes the connection. Returns false if it sends something instead.
    [[nodiscard]] bool ends()
    {
        std::byte next{};
        const auto receive = [&] {
            const auto n = ::recv(fd_, &next, 1, 0);
            return n < 0 && errno == ECONNRESET ? 0 : n;
        };
        return transferred(receive, {}, "recv") == 0;
    }

private:
    static constexpr int longest_wait = 20;  // seconds

    static int flags(patience p) noexcept { return p == patience::at_once ? MSG_DONTWAIT : 0; }

    template <class T>
    void set(int level, int name, const T& value)
    {
        check(::setsockopt(fd_, level, name, &value, sizeof(value)), "setsockopt");
    }
    static void check(int result, const char* call)
    {
        if (result < 0)
            throw std::system_error{errno, std::system_category(), call};
    }
    /// Repeats a call that a signal has interrupted: a process that was stopped goes on.
    template <class Call>
    static std::size_t transferred(Call f, patience p, const char* call)
    {
        ::ssize_t result = 0;
        do
            result = f();
        while (result < 0 && errno == EINTR);
        if (result >= 0)
            return static_cast<std::size_t>(result);
        if (errno != EAGAIN)
            throw std::system_error{errno, std::system_category(), call};
        if (p == patience::waits)
            throw std::runtime_error{"the server has neither sent nor received for 20 s"};
        return 0;
    }

    int fd_;
};

}  // namespace bench
