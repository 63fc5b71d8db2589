// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/send_file.hpp>

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/system/error_code.hpp>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <limits>
#include <tuple>

#include <sys/socket.h>
#include <sys/uio.h>

namespace nbd::io {

/// The error of a transfer and the bytes that it moved.
using transfer = std::tuple<boost::system::error_code, std::size_t>;

/// Largest number of buffers for one system call. Asio passes 64.
inline constexpr std::size_t most_gathered = IOV_MAX;
inline constexpr std::size_t no_limit = std::numeric_limits<std::size_t>::max();

/// Sends the first buffers of `from` with one sendmsg(2): at most most_gathered buffers and at most
/// `most_bytes` bytes. `flags`: those of sendmsg. No signal is raised. An interrupted call is
/// repeated.
/// *Returns* the bytes sent. *Errors*: asio::error::would_block with MSG_DONTWAIT, or when the send
/// timeout of the socket passes; otherwise the error of sendmsg.
template <class Buffers>
[[nodiscard]] transfer send_gathered(int socket, const Buffers& from, int flags,
                                     std::size_t most_bytes = no_limit) noexcept
{
    ::iovec parts[most_gathered];  // uninitialised: only what is used costs anything
    std::size_t count = 0;
    std::size_t bytes = 0;
    for (const boost::asio::const_buffer b : from) {
        if (count == most_gathered || bytes >= most_bytes)
            break;
        const auto n = std::min(b.size(), most_bytes - bytes);
        parts[count++] = {const_cast<void*>(b.data()), n};
        bytes += n;
    }
    ::msghdr message{};
    message.msg_iov = parts;
    message.msg_iovlen = count;
    for (;;) {
        const auto sent = ::sendmsg(socket, &message, flags | MSG_NOSIGNAL);
        if (sent >= 0)
            return {boost::system::error_code{}, static_cast<std::size_t>(sent)};
        if (errno == EAGAIN)
            return {boost::asio::error::would_block, 0};
        if (errno != EINTR)
            return {boost::system::error_code{errno, boost::system::system_category()}, 0};
    }
}

/// Sends gathered data with one system call: `from.pieces()` in memory, or `from.file()` if there
/// are no pieces. Otherwise as send_gathered. *Errors*: also asio::error::eof, if the file has
/// become too short.
template <class Gathered>
[[nodiscard]] transfer send_next(int socket, const Gathered& from, int flags,
                                 std::size_t most_bytes = no_limit) noexcept
{
    if (!from.pieces().empty())
        return send_gathered(socket, from.pieces(), flags | (from.file_follows() ? MSG_MORE : 0),
                             most_bytes);
    const auto part = from.file();
    return send_file_now(socket, part.part(0, std::min(part.length, most_bytes)));
}

}  // namespace nbd::io
