// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/sockets.hpp>
#include <nbd/concepts/transport.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>

#include <sys/socket.h>

/// The members of a transport, for one of its addresses; most transports have only one. `address`
/// is its number.
namespace nbd::acceptance {

/// Where a server listens, and which address of its transport that is.
template <class Endpoint>
struct listening_at {
    Endpoint endpoint;
    std::size_t address = 0;
};

template <class Transport>
[[nodiscard]] std::size_t count_addresses(const Transport& transport) noexcept
{
    if constexpr (several_addresses<Transport>)
        return transport.addresses();
    else
        return 1;
}
template <class Transport, class Acceptor>
[[nodiscard]] std::error_code listen(Transport& transport, Acceptor& acceptor,
                                     [[maybe_unused]] std::size_t address)
{
    if constexpr (several_addresses<Transport>)
        return transport.listen(acceptor, address);
    else
        return transport.listen(acceptor);
}
/// The client that is connected already; without a descriptor if there is none.
template <class Transport>
[[nodiscard]] owned_descriptor connected(Transport& transport, std::size_t address)
{
    if constexpr (connected_transport<Transport> && several_addresses<Transport>)
        return transport.connected(address);
    else if constexpr (connected_transport<Transport>)
        return transport.connected();
    else
        return owned_descriptor{-1};
}
template <class Transport, class Socket>
[[nodiscard]] typename Transport::peer_type peer_of(const Transport& transport, Socket& socket,
                                                    [[maybe_unused]] std::size_t address)
{
    if constexpr (several_addresses<Transport>)
        return transport.peer(socket, address);
    else
        return transport.peer(socket);
}
template <class Transport, class Socket>
void prepare(Transport& transport, Socket& socket, [[maybe_unused]] std::size_t address) noexcept
{
    if constexpr (several_addresses<Transport>)
        transport.prepare(socket, address);
    else
        transport.prepare(socket);
}
template <class Transport, class Endpoint>
[[nodiscard]] std::string uri_of(const Transport& transport, const listening_at<Endpoint>& at,
                                 std::string_view name)
{
    if constexpr (several_addresses<Transport>)
        return transport.uri(at.endpoint, name, at.address);
    else
        return transport.uri(at.endpoint, name);
}

/// Checks a socket that the program hands over, as check_socket; `at` becomes its endpoint, and the
/// address that it counts as. *Errors*: also wrong_protocol_type if there is no such address.
template <class Transport, class Endpoint>
[[nodiscard]] std::error_code check_socket_of([[maybe_unused]] const Transport& transport, int fd,
                                              bool listening, listening_at<Endpoint>& at) noexcept
{
    if (const auto failed = check_socket(fd, listening, at.endpoint))
        return failed;
    if constexpr (several_addresses<Transport>) {
        int protocol = 0;
#ifdef SO_PROTOCOL
        ::socklen_t size = sizeof(protocol);
        if (::getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) != 0)
            protocol = 0;
#endif
        const auto fitting = transport.fitting(at.endpoint, protocol);
        if (!fitting)
            return std::make_error_code(std::errc::wrong_protocol_type);
        at.address = *fitting;
    }
    return {};
}

}  // namespace nbd::acceptance
