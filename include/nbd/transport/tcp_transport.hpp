// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/transport.hpp>
#include <nbd/protocol/constants.hpp>
#include <nbd/protocol/uri.hpp>
#include <nbd/vocabulary/client.hpp>
#include <nbd/vocabulary/ip_address.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/socket_base.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

namespace nbd {

/// The client's end of a TCP connection.
struct tcp_peer {
    /// An IPv4 address that is mapped into IPv6 is stored as an IPv4 address.
    boost::asio::ip::tcp::endpoint endpoint;

    /// *Returns* a text such as "127.0.0.1:10809" or "[::1]:10809".
    [[nodiscard]] std::string text() const { return text_of(endpoint); }
    [[nodiscard]] static std::string text_of(const boost::asio::ip::tcp::endpoint& at)
    {
        const auto address = at.address().to_string();
        return (at.address().is_v6() ? '[' + address + ']' : address) + ':'
            + std::to_string(at.port());
    }
    [[nodiscard]] static boost::asio::ip::tcp::endpoint
    normalised(const boost::asio::ip::tcp::endpoint& at)
    {
        if (!at.address().is_v6() || !at.address().to_v6().is_v4_mapped())
            return at;
        return {boost::asio::ip::make_address_v4(boost::asio::ip::v4_mapped, at.address().to_v6()),
                at.port()};
    }
    /// Tells the address and the port.
    void describe(client& who) const
    {
        who.transport = "tcp";
        who.port = endpoint.port();
        who.address = endpoint.address().is_v4()
            ? ip_address::v4(endpoint.address().to_v4().to_bytes())
            : ip_address{endpoint.address().to_v6().to_bytes()};
    }
    /// Whether both have the same address; see settings.places_per_peer.
    [[nodiscard]] friend bool same_origin(const tcp_peer& a, const tcp_peer& b) noexcept
    {
        return a.endpoint.address() == b.endpoint.address();
    }
};

/// TCP over IPv4 and IPv6.
class tcp_transport {
public:
    struct settings {
        /// A numeric address, or a host name: the first of its addresses that works is used. The
        /// default accepts connections from this machine only. "::" accepts connections from
        /// everywhere, by IPv6 and IPv4.
        std::string address = "127.0.0.1";
        /// The port; 0: any free port, see server::local_endpoint.
        std::uint16_t port = protocol::default_port;
        /// Largest number of connections that wait to be accepted.
        int backlog = 100;
        /// Sends small replies without delay (proto.md asks for it).
        bool no_delay = true;
        /// How long a client may leave sent bytes without an acknowledgement, or take none of the
        /// bytes that wait for it, before the system closes the connection; 0 = no such limit (on
        /// Linux about 15 minutes, and no limit for a client that only takes nothing). Without
        /// bytes under way, the system's keep-alive notices a machine that is gone (on Linux after
        /// two hours). It is TCP_USER_TIMEOUT, and ignored by systems that do not have it.
        std::chrono::milliseconds user_timeout{120'000};
    };

    using protocol_type = boost::asio::ip::tcp;
    using peer_type = tcp_peer;

    explicit tcp_transport(settings s) : settings_{std::move(s)} {}

    /// *Errors*: those of the resolver, and the system's (EADDRINUSE, EACCES ...).
    template <class Acceptor>
    [[nodiscard]] std::error_code listen(Acceptor& acceptor)
    {
        boost::system::error_code failed;
        boost::asio::ip::basic_resolver<protocol_type, typename Acceptor::executor_type> resolver{
            acceptor.get_executor()};
        const auto found = resolver.resolve(settings_.address, std::to_string(settings_.port),
                                            boost::asio::ip::resolver_base::passive
                                                | boost::asio::ip::resolver_base::numeric_service,
                                            failed);
        if (failed)
            return failed;
        for (const auto& entry : found) {
            failed = listen_at(acceptor, entry.endpoint());
            if (!failed)
                return {};
        }
        return failed;
    }

    template <class Socket>
    void prepare(Socket& socket) noexcept
    {
        boost::system::error_code ignored;
        socket.set_option(protocol_type::no_delay{settings_.no_delay}, ignored);
        // Detects a peer whose host is down or unreachable, because NBD has no ping.
        socket.set_option(boost::asio::socket_base::keep_alive{true}, ignored);
#ifdef TCP_USER_TIMEOUT
        constexpr std::chrono::milliseconds longest{std::numeric_limits<int>::max()};
        const auto limit = static_cast<int>(std::min(settings_.user_timeout, longest).count());
        ::setsockopt(socket.native_handle(), IPPROTO_TCP, TCP_USER_TIMEOUT, &limit, sizeof(limit));
#endif
    }

    template <class Socket>
    [[nodiscard]] peer_type peer(Socket& socket) const
    {
        // Not remote_endpoint(), which is of another type for a socket of any_of.
        protocol_type::endpoint remote;
        auto length = static_cast<::socklen_t>(remote.capacity());
        if (::getpeername(socket.native_handle(), remote.data(), &length) != 0)
            return {};
        remote.resize(length);
        return {tcp_peer::normalised(remote)};
    }

    [[nodiscard]] std::string uri(const protocol_type::endpoint& endpoint,
                                  std::string_view name) const
    {
        return protocol::tcp_uri(tcp_peer::text_of(tcp_peer::normalised(endpoint)), name);
    }

    [[nodiscard]] std::string where() const
    {
        return settings_.address + " port " + std::to_string(settings_.port);
    }

    void close() noexcept {}

private:
    template <class Acceptor>
    boost::system::error_code listen_at(Acceptor& acceptor, const protocol_type::endpoint& at)
    {
        boost::system::error_code failed;
        boost::system::error_code ignored;
        owned_descriptor fd{::socket(at.protocol().family(), SOCK_STREAM | SOCK_CLOEXEC, 0)};
        if (fd.get() < 0)
            return {errno, boost::system::system_category()};
        acceptor.assign(at.protocol(), fd.get(), failed);
        if (failed)
            return failed;
        fd.release();
        acceptor.set_option(boost::asio::socket_base::reuse_address{true}, ignored);
        if (at.address().is_v6())
            acceptor.set_option(boost::asio::ip::v6_only{!at.address().is_unspecified()}, ignored);
        acceptor.bind(at, failed);
        if (!failed)
            acceptor.listen(settings_.backlog, failed);
        if (failed)
            acceptor.close(ignored);
        return failed;
    }

    settings settings_;
};

}  // namespace nbd
