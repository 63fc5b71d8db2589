// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/owned_descriptor.hpp>
#include <nbd/vocabulary/refused_call.hpp>

#include <boost/system/error_code.hpp>

#include <cerrno>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace nbd::acceptance {

/// Accepts a connection; the descriptor is closed on exec.
/// *Returns*: -1 on an error, and where no connection is ready, which is not an error.
[[nodiscard]] inline int accept_connection(int listening, std::error_code& error) noexcept
{
    error.clear();
#ifdef SOCK_CLOEXEC
    int accepted = ::accept4(listening, nullptr, nullptr, SOCK_CLOEXEC);
    const bool is_refused = accepted < 0 && may_be_refused(errno);
#else
    int accepted = -1;
    const bool is_refused = true;
#endif
    if (is_refused) {
        accepted = ::accept(listening, nullptr, nullptr);
        if (accepted >= 0)
            ::fcntl(accepted, F_SETFD, FD_CLOEXEC);
    }
    if (accepted < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR
        && errno != ECONNABORTED)
        error = {errno, std::system_category()};
    return accepted;
}

/// Checks a descriptor that the program hands over, and sets it to be closed on exec. `listening`:
/// whether it has to be a listening socket. `local` becomes its address.
/// *Errors*: wrong_protocol_type or invalid_argument where it is something else; the system's.
template <class Endpoint>
[[nodiscard]] std::error_code check_socket(int fd, bool listening, Endpoint& local) noexcept
{
    auto* const address = static_cast<::sockaddr*>(local.data());
    auto length = static_cast<::socklen_t>(local.capacity());
    int type = 0;
    int accepts = 0;
    ::socklen_t type_size = sizeof(type);
    ::socklen_t accepts_size = sizeof(accepts);
    if (::getsockname(fd, address, &length) != 0
        || ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) != 0
        || ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &accepts_size) != 0)
        return {errno, std::system_category()};
    if (local.protocol().family() != address->sa_family || local.protocol().type() != type)
        return std::make_error_code(std::errc::wrong_protocol_type);
    if ((accepts != 0) != listening)
        return std::make_error_code(std::errc::invalid_argument);
    local.resize(length);
    ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    return {};
}

/// Makes `socket` the owner of a descriptor.
template <class Socket, class Protocol>
[[nodiscard]] std::error_code assign(Socket& socket, owned_descriptor from,
                                     const Protocol& protocol)
{
    boost::system::error_code failed;
    socket.assign(protocol, from.get(), failed);
    if (!failed)
        from.release();
    return failed;
}

}  // namespace nbd::acceptance
