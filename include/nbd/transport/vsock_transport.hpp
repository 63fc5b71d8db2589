// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/transport.hpp>
#include <nbd/protocol/constants.hpp>
#include <nbd/protocol/uri.hpp>
#include <nbd/vocabulary/client.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/generic/basic_endpoint.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <system_error>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
// after sys/socket.h
#include <linux/vm_sockets.h>

namespace nbd {

/// The Asio protocol of AF_VSOCK stream sockets: connections between a virtual machine and its
/// host.
class vsock_protocol {
public:
    using endpoint = boost::asio::generic::basic_endpoint<vsock_protocol>;
    using socket = boost::asio::basic_stream_socket<vsock_protocol>;
    using acceptor = boost::asio::basic_socket_acceptor<vsock_protocol>;

    vsock_protocol() = default;
    /// For basic_endpoint: every endpoint has the same protocol.
    vsock_protocol(int, int) noexcept {}

    [[nodiscard]] int family() const noexcept { return AF_VSOCK; }
    [[nodiscard]] int type() const noexcept { return SOCK_STREAM; }
    [[nodiscard]] int protocol() const noexcept { return 0; }

    [[nodiscard]] static endpoint make_endpoint(std::uint32_t cid, std::uint32_t port)
    {
        ::sockaddr_vm at{};
        at.svm_family = AF_VSOCK;
        at.svm_cid = cid;
        at.svm_port = port;
        return {&at, sizeof(at)};
    }
};

/// The client's end of an AF_VSOCK connection.
struct vsock_peer {
    std::uint32_t cid = 0;  ///< the machine: 2 is the host, 1 the same machine
    std::uint32_t port = 0;

    /// *Returns* a text such as "vsock 3:40312".
    [[nodiscard]] std::string text() const
    {
        return "vsock " + std::to_string(cid) + ':' + std::to_string(port);
    }
    void describe(client& who) const
    {
        who.transport = "vsock";
        who.cid = cid;
    }
    /// Whether both are of the same machine; see settings.places_per_peer.
    [[nodiscard]] friend bool same_origin(const vsock_peer& a, const vsock_peer& b) noexcept
    {
        return a.cid == b.cid;
    }
};

/// AF_VSOCK stream sockets, between virtual machines and their host (Linux).
class vsock_transport {
public:
    /// The context identifier (CID) that stands for all of this machine's.
    static constexpr std::uint32_t any = 0xffffffffU;

    struct settings {
        /// The context identifier (CID) to listen on.
        std::uint32_t cid = any;
        /// The port; 0: any free port, see server::local_endpoint. Ports below 1024 need
        /// CAP_NET_BIND_SERVICE.
        std::uint32_t port = protocol::default_port;
        /// Largest number of connections that wait to be accepted.
        int backlog = 100;
    };

    using protocol_type = vsock_protocol;
    using peer_type = vsock_peer;

    explicit vsock_transport(settings s) : settings_{s} {}

    /// *Errors*: the system's: EAFNOSUPPORT or ENODEV without vsock, EADDRINUSE, EADDRNOTAVAIL for
    /// a CID that is not of this machine ...
    template <class Acceptor>
    [[nodiscard]] std::error_code listen(Acceptor& acceptor)
    {
        owned_descriptor fd{::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0)};
        if (fd.get() < 0)
            return {errno, std::system_category()};
        boost::system::error_code failed;
        acceptor.assign(protocol_type{}, fd.get(), failed);
        if (failed)
            return failed;
        fd.release();
        const auto port = settings_.port == 0 ? any_port : settings_.port;
        acceptor.bind(protocol_type::make_endpoint(settings_.cid, port), failed);
        if (!failed)
            acceptor.listen(settings_.backlog, failed);
        if (failed) {
            boost::system::error_code ignored;
            acceptor.close(ignored);
        }
        return failed;
    }

    template <class Socket>
    void prepare(Socket&) noexcept
    {
    }

    template <class Socket>
    [[nodiscard]] peer_type peer(Socket& socket) const
    {
        ::sockaddr_vm remote{};
        ::socklen_t length = sizeof(remote);
        if (::getpeername(socket.native_handle(), reinterpret_cast<::sockaddr*>(&remote), &length)
            != 0)
            return {};
        return {remote.svm_cid, remote.svm_port};
    }

    /// *Returns* a URI as libnbd reads it, `nbd+vsock://CID:PORT/name`. For the CID `any`, the
    /// URI has the CID of this machine: in a guest that of the guest, on the host 2.
    [[nodiscard]] std::string uri(const protocol_type::endpoint& endpoint,
                                  std::string_view name) const
    {
        ::sockaddr_vm at{};
        std::memcpy(&at, endpoint.data(), std::min(sizeof(at), endpoint.size()));
        const auto cid = at.svm_cid == any ? own_cid() : at.svm_cid;
        return protocol::tcp_uri(std::to_string(cid) + ':' + std::to_string(at.svm_port), name,
                                 "nbd+vsock");
    }

    [[nodiscard]] std::string where() const
    {
        return "vsock " + (settings_.cid == any ? "any" : std::to_string(settings_.cid)) + " port "
            + std::to_string(settings_.port);
    }

    void close() noexcept {}

private:
    static constexpr std::uint32_t any_port = 0xffffffffU;

    [[nodiscard]] static std::uint32_t own_cid() noexcept
    {
        constexpr std::uint32_t host = 2;
        const owned_descriptor device{::open("/dev/vsock", O_RDONLY | O_CLOEXEC)};
        unsigned int cid = any;
        if (device.get() < 0 || ::ioctl(device.get(), IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) != 0
            || cid == any)
            return host;
        return cid;
    }

    settings settings_;
};

}  // namespace nbd
