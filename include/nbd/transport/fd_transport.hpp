// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/transport.hpp>
#include <nbd/transport/descriptor_relay.hpp>
#include <nbd/transport/peer_process.hpp>
#include <nbd/transport/stream_protocol.hpp>
#include <nbd/vocabulary/client.hpp>
#include <nbd/vocabulary/ip_address.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <array>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace nbd {

/// The client's end of what the program was started with.
struct fd_peer {
    int in = 0;  ///< the descriptor that its requests come from
    /// Of a socket, as nbd::client has them: inetd passes connections of TCP and UNIX sockets.
    std::optional<ip_address> address{};
    std::uint16_t port = 0;
    std::optional<unix_process> process{};

    void describe(client& who) const
    {
        who.transport = "fd";
        who.address = address;
        who.port = port;
        who.process = process;
    }
    [[nodiscard]] std::string text() const
    {
        return in == 0 ? "stdin" : "descriptor " + std::to_string(in);
    }
    [[nodiscard]] friend bool same_origin(const fd_peer& a, const fd_peer& b) noexcept
    {
        return a.in == b.in;
    }
};

/// One client, on descriptors that the program was started with: a connected stream socket, as
/// inetd, socat and nbd_connect_command of libnbd give it; or a pair of pipes, through a
/// descriptor_relay. A server that listens nowhere stops when its last client has left.
///
/// start() takes the descriptors over. stdin, stdout and stderr among them become /dev/null, so
/// that nothing that the program prints gets between the replies. Others are closed.
class fd_transport {
public:
    struct settings {
        int in = 0;
        int out = 1;
    };

    using protocol_type = stream_protocol;
    using peer_type = fd_peer;

    explicit fd_transport(settings s) : settings_{s} {}

    /// Takes the descriptors over; the acceptor stays closed. *Errors*: bad_file_descriptor;
    /// not_connected for a socket that is not connected; the system's. After an error of these, the
    /// descriptors are unchanged.
    template <class Acceptor>
    [[nodiscard]] std::error_code listen(Acceptor&)
    {
        struct ::stat in {};
        struct ::stat out {};
        if (::fstat(settings_.in, &in) != 0 || ::fstat(settings_.out, &out) != 0)
            return last_error();
        for (const int fd : {settings_.in, settings_.out}) {
            ::sockaddr_storage remote{};
            ::socklen_t size = sizeof(remote);
            if (::getpeername(fd, reinterpret_cast<::sockaddr*>(&remote), &size) != 0
                && errno != ENOTSOCK)
                return last_error();
        }
        const bool is_one =
            S_ISSOCK(in.st_mode) && in.st_dev == out.st_dev && in.st_ino == out.st_ino;
        int pair[2] = {-1, -1};
        if (!is_one && ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
            return last_error();
        owned_descriptor ours{pair[0]};
        owned_descriptor relayed{pair[1]};
        const owned_descriptor null{::open("/dev/null", O_RDWR | O_CLOEXEC)};
        owned_descriptor reads{::fcntl(settings_.in, F_DUPFD_CLOEXEC, 3)};
        owned_descriptor writes{is_one ? -1 : ::fcntl(settings_.out, F_DUPFD_CLOEXEC, 3)};
        if (null.get() < 0 || reads.get() < 0 || (!is_one && writes.get() < 0))
            return last_error();
        replace(settings_.in, null.get());
        if (settings_.out != settings_.in)
            replace(settings_.out, null.get());
        if (is_one) {
            client_.emplace(std::move(reads));
        } else {
            relay_ = std::make_unique<descriptor_relay>(std::move(reads), std::move(writes),
                                                        std::move(relayed));
            client_.emplace(std::move(ours));
        }
        return {};
    }
    /// *Returns* the socket of the client, after listen().
    [[nodiscard]] owned_descriptor connected()
    {
        owned_descriptor client{client_ ? client_->release() : -1};
        client_.reset();
        return client;
    }

    /// As unix_transport and tcp_transport.
    template <class Socket>
    void prepare(Socket& socket) noexcept
    {
        ::sockaddr_storage local{};
        ::socklen_t size = sizeof(local);
        const int fd = socket.native_handle();
        if (::getsockname(fd, reinterpret_cast<::sockaddr*>(&local), &size) != 0)
            return;
        const int on = 1;
        const int buffer = 2 << 20;
        if (local.ss_family == AF_UNIX) {
            ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
        } else {
            ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
            ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
        }
    }

    template <class Socket>
    [[nodiscard]] peer_type peer(Socket& socket) const
    {
        peer_type found{.in = settings_.in};
        ::sockaddr_storage remote{};
        ::socklen_t size = sizeof(remote);
        if (relay_ != nullptr  // the socket is the relay's
            || ::getpeername(socket.native_handle(), reinterpret_cast<::sockaddr*>(&remote), &size)
                != 0)
            return found;
        if (remote.ss_family == AF_INET) {
            ::sockaddr_in v4;
            std::memcpy(&v4, &remote, sizeof(v4));
            found.address =
                ip_address::v4(std::bit_cast<std::array<unsigned char, 4>>(v4.sin_addr.s_addr));
            found.port = ntohs(v4.sin_port);
        } else if (remote.ss_family == AF_INET6) {
            ::sockaddr_in6 v6;
            std::memcpy(&v6, &remote, sizeof(v6));
            found.address = ip_address{std::to_array(v6.sin6_addr.s6_addr)};
            found.port = ntohs(v6.sin6_port);
        }
        found.process = peer_process(socket.native_handle());
        return found;
    }

    /// *Returns* an empty text: no other client can connect.
    [[nodiscard]] std::string uri(const protocol_type::endpoint&, std::string_view) const
    {
        return {};
    }
    [[nodiscard]] std::string where() const
    {
        if (settings_.in == 0 && settings_.out == 1)
            return "stdin and stdout";
        return "descriptors " + std::to_string(settings_.in) + " and "
            + std::to_string(settings_.out);
    }
    void close() noexcept { client_.reset(); }

private:
    [[nodiscard]] static std::error_code last_error() noexcept
    {
        return {errno, std::system_category()};
    }
    /// Closes a descriptor of the program; in place of a standard one there must be another.
    static void replace(int fd, int null) noexcept
    {
        if (fd <= STDERR_FILENO)
            ::dup2(null, fd);
        else
            ::close(fd);
    }

    settings settings_;
    std::optional<owned_descriptor> client_;
    std::unique_ptr<descriptor_relay> relay_;
};

}  // namespace nbd
