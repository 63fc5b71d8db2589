// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/transport.hpp>
#include <nbd/protocol/constants.hpp>
#include <nbd/protocol/uri.hpp>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/socket_base.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <netinet/tcp.h>

namespace nbd {

/// TCP over IPv4 and IPv6.
class tcp_transport {
public:
    struct settings {
        /// A numeric address or a host name. The default is this machine alone: to offer a disk to
        /// the network is a decision. "::" takes both IPv6 and IPv4 from everywhere.
        std::string address = "127.0.0.1";
        /// 0 = any free one; server::local_endpoint tells which.
        std::uint16_t port = protocol::default_port;
        /// Connections that wait to be accepted.
        int backlog = 100;
        /// Small replies go out at once (proto.md asks for it).
        bool no_delay = true;
    };

    using protocol_type = boost::asio::ip::tcp;

    explicit tcp_transport(settings s) : settings_{std::move(s)} {}

    /// Errors: those of resolving the address, and the system's (EADDRINUSE, EACCES ...).
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
        // A peer whose host vanished is found out, though the protocol itself has no ping.
        socket.set_option(boost::asio::socket_base::keep_alive{true}, ignored);
#ifdef TCP_USER_TIMEOUT
        using user_timeout =
            boost::asio::detail::socket_option::integer<IPPROTO_TCP, TCP_USER_TIMEOUT>;
        socket.set_option(user_timeout{120'000}, ignored);
#endif
    }

    template <class Socket>
    [[nodiscard]] std::string peer(Socket& socket) const
    {
        boost::system::error_code ignored;
        return authority(socket.remote_endpoint(ignored));
    }

    [[nodiscard]] std::string uri(const protocol_type::endpoint& endpoint,
                                  std::string_view name) const
    {
        return protocol::tcp_uri(authority(endpoint), name);
    }

    [[nodiscard]] std::string where() const
    {
        return settings_.address + " port " + std::to_string(settings_.port);
    }

    void close() noexcept {}

private:
    /// "127.0.0.1:10809", "[::1]:10809"; an IPv4 address that was mapped into IPv6 as IPv4.
    [[nodiscard]] static std::string authority(const protocol_type::endpoint& endpoint)
    {
        auto address = endpoint.address();
        if (address.is_v6() && address.to_v6().is_v4_mapped())
            address = boost::asio::ip::make_address_v4(boost::asio::ip::v4_mapped, address.to_v6());
        const auto text = address.to_string();
        return (address.is_v6() ? '[' + text + ']' : text) + ':' + std::to_string(endpoint.port());
    }

    template <class Acceptor>
    boost::system::error_code listen_at(Acceptor& acceptor, const protocol_type::endpoint& at)
    {
        boost::system::error_code failed;
        boost::system::error_code ignored;
        acceptor.open(at.protocol(), failed);
        if (failed)
            return failed;
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
