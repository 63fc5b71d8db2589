// SPDX-License-Identifier: MIT
#pragma once

#include <boost/asio/error.hpp>
#include <boost/system/error_code.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <tuple>

#include <fcntl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

namespace nbd::io {

/// A stream that is a plain socket, without a layer such as TLS.
template <class Stream>
concept socket = requires(Stream& s) { s.native_handle(); };

/// Blocks SIGPIPE in this scope, because sendfile(2) has no MSG_NOSIGNAL. On the threads of a
/// server, which always block it, this costs nothing.
class no_pipe_signal {
public:
    no_pipe_signal() noexcept
    {
        if (blocked_anyway())
            return;
        ::sigset_t before;
        sigemptyset(&pipe_);
        sigaddset(&pipe_, SIGPIPE);
        ::pthread_sigmask(SIG_BLOCK, &pipe_, &before);
        restore_ = sigismember(&before, SIGPIPE) == 0;
    }
    no_pipe_signal(const no_pipe_signal&) = delete;
    no_pipe_signal& operator=(const no_pipe_signal&) = delete;
    ~no_pipe_signal()
    {
        if (!restore_)
            return;
        const ::timespec at_once{};
        while (::sigtimedwait(&pipe_, nullptr, &at_once) == -1 && errno == EINTR) {
        }
        ::pthread_sigmask(SIG_UNBLOCK, &pipe_, nullptr);
    }

private:
    [[nodiscard]] static bool blocked_anyway() noexcept
    {
        static thread_local const bool blocked = [] {
            ::sigset_t now;
            return ::pthread_sigmask(SIG_BLOCK, nullptr, &now) == 0
                && sigismember(&now, SIGPIPE) == 1;
        }();
        return blocked;
    }

    ::sigset_t pipe_;
    bool restore_ = false;
};

/// The value of an offset which means that the file is a pipe.
inline constexpr std::uint64_t next_in_pipe = ~std::uint64_t{0};

/// Reads some of a part of a file and sends it: for systems that refuse sendfile(2). *Returns* as
/// sendfile(2).
template <class Part>
[[nodiscard]] ::ssize_t copy_file_now(int socket, const Part& part) noexcept
{
    std::array<std::byte, std::size_t{64} << 10> data;
    const auto n = ::pread(part.file.file, data.data(), std::min(part.length, data.size()),
                           static_cast<::off_t>(part.file.offset));
    return n <= 0 ? n : ::send(socket, data.data(), static_cast<std::size_t>(n), MSG_NOSIGNAL);
}

/// Sends some of a part of a file, or of the content of a pipe. *Errors*: asio::error::eof at the
/// end of the file; asio::error::would_block; those of sendfile, splice, pread and send.
/// *Complexity or cost*: one system call; three where the system refuses sendfile.
template <class Part>
[[nodiscard]] std::tuple<boost::system::error_code, std::size_t>
send_file_now(int socket, const Part& part) noexcept
{
    const no_pipe_signal quiet;
    for (;;) {
        auto at = static_cast<::off_t>(part.file.offset);
        const bool from_pipe = part.file.offset == next_in_pipe;
        auto sent = from_pipe ? ::splice(part.file.file, nullptr, socket, nullptr, part.length, 0)
                              : ::sendfile(socket, part.file.file, &at, part.length);
        // After any other error the copy succeeds, or reports the same error.
        if (sent < 0 && !from_pipe && errno != EAGAIN && errno != EINTR)
            sent = copy_file_now(socket, part);
        if (sent > 0)
            return {boost::system::error_code{}, static_cast<std::size_t>(sent)};
        if (sent == 0)
            return {boost::asio::error::eof, 0};
        if (errno == EAGAIN)
            return {boost::asio::error::would_block, 0};
        if (errno != EINTR)
            return {boost::system::error_code{errno, boost::system::system_category()}, 0};
    }
}

}  // namespace nbd::io
