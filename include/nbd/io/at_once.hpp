// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/gather.hpp>
#include <nbd/io/layered.hpp>
#include <nbd/io/send_file.hpp>

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/system/error_code.hpp>

#include <array>
#include <cerrno>
#include <cstddef>

#include <poll.h>
#include <sys/socket.h>

namespace nbd::io {

/// Receives some bytes without waiting, and without the event loop. *Errors*:
/// asio::error::would_block where there are none, and for a stream that is on no socket;
/// asio::error::eof; those of recv.
template <class Stream>
[[nodiscard]] transfer read_at_once(Stream& stream, boost::asio::mutable_buffer to) noexcept
{
    if constexpr (socket<Stream>) {
        const auto n = ::recv(stream.native_handle(), to.data(), to.size(), MSG_DONTWAIT);
        if (n > 0)
            return {boost::system::error_code{}, static_cast<std::size_t>(n)};
        if (n == 0)
            return {boost::asio::error::eof, 0};
        if (errno != EAGAIN && errno != EINTR)
            return {boost::system::error_code{errno, boost::system::system_category()}, 0};
    }
    if constexpr (layered<Stream>)
        return stream.receive_now(to);
    else
        return {boost::asio::error::would_block, 0};
}

/// Sends some bytes in the same way. *Errors*: those of send_gathered.
template <class Stream>
[[nodiscard]] transfer write_at_once(Stream& stream, boost::asio::const_buffer from) noexcept
{
    if constexpr (socket<Stream>)
        return send_gathered(stream.native_handle(), std::array{from}, MSG_DONTWAIT);
    else if constexpr (layered<Stream>)
        return stream.send_now(std::array{from}, no_limit);
    else
        return {boost::asio::error::would_block, 0};
}

/// Whether nothing that is sent can reach the peer any more. Over a UNIX socket that is known when
/// the peer closes; over TCP when it has answered something with a reset. False for a peer that has
/// closed its sending side only, and for a stream that is on no socket.
template <class Stream>
[[nodiscard]] bool is_hung_up(Stream& stream) noexcept
{
    if constexpr (on_socket<Stream>) {
        ::pollfd end{.fd = descriptor_of(stream), .events = 0, .revents = 0};
        return ::poll(&end, 1, 0) > 0 && (end.revents & (POLLHUP | POLLERR)) != 0;
    } else {
        return false;
    }
}

}  // namespace nbd::io
