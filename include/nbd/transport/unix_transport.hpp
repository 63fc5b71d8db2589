// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/transport.hpp>
#include <nbd/error.hpp>
#include <nbd/protocol/uri.hpp>

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/socket_base.hpp>

#include <cerrno>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace nbd {

/// UNIX stream sockets.
class unix_transport {
public:
    /// What start() does where the path already holds a socket that nobody answers on, as a server
    /// leaves it that was killed.
    enum class stale_file { replace, refuse };

    struct settings {
        /// Where the socket is made. A first byte of 0 makes it abstract: no file (Linux).
        std::string path;
        /// Connections that wait to be accepted.
        int backlog = 100;
        /// Permissions of the socket file: by default for its owner alone.
        ::mode_t mode = 0600;
        stale_file stale = stale_file::replace;
    };

    using protocol_type = boost::asio::local::stream_protocol;

    explicit unix_transport(settings s) : settings_{std::move(s)} {}

    /// Errors: path_too_long, not_a_socket; EADDRINUSE where somebody answers on the socket; and
    /// the system's. On an error nothing is left behind.
    template <class Acceptor>
    [[nodiscard]] std::error_code listen(Acceptor& acceptor)
    {
        if (settings_.path.empty())
            return std::make_error_code(std::errc::invalid_argument);
        if (settings_.path.size() >= sizeof(::sockaddr_un::sun_path))
            return errc::path_too_long;
        const protocol_type::endpoint endpoint{settings_.path};
        if (const auto failed = make_way(endpoint))
            return failed;
        boost::system::error_code failed;
        acceptor.open(endpoint.protocol(), failed);
        // The file takes the socket's own mode, so that it is never wider than asked for.
        if (!failed && !abstract())
            ::fchmod(acceptor.native_handle(), settings_.mode);
        if (!failed)
            acceptor.bind(endpoint, failed);
        if (!failed && !abstract()) {
            struct ::stat made {};
            if (::lstat(settings_.path.c_str(), &made) == 0)
                file_ = {made.st_dev, made.st_ino};
            if (file_ == file_id{} || ::chmod(settings_.path.c_str(), settings_.mode) != 0)
                failed = {errno, boost::system::system_category()};
        }
        if (!failed)
            acceptor.listen(settings_.backlog, failed);
        if (failed) {
            boost::system::error_code ignored;
            acceptor.close(ignored);
            close();
        }
        return failed;
    }

    /// A large send buffer lets a whole batch of replies go out in one system call.
    template <class Socket>
    void prepare(Socket& socket) noexcept
    {
        boost::system::error_code ignored;
        socket.set_option(boost::asio::socket_base::send_buffer_size{2 << 20}, ignored);
    }

    template <class Socket>
    [[nodiscard]] std::string peer(Socket& socket) const
    {
#ifdef SO_PEERCRED
        struct ::ucred who {};
        ::socklen_t length = sizeof(who);
        if (::getsockopt(socket.native_handle(), SOL_SOCKET, SO_PEERCRED, &who, &length) == 0)
            return "pid " + std::to_string(who.pid) + " uid " + std::to_string(who.uid);
#endif
        return "unix";
    }

    [[nodiscard]] std::string uri(const protocol_type::endpoint& endpoint,
                                  std::string_view name) const
    {
        return protocol::unix_uri(endpoint.path(), name);
    }

    [[nodiscard]] std::string where() const { return settings_.path; }

    /// Removes the socket file, if it is still the one that listen() made.
    void close() noexcept
    {
        struct ::stat there {};
        if (file_ != file_id{} && ::lstat(settings_.path.c_str(), &there) == 0
            && file_ == file_id{there.st_dev, there.st_ino})
            ::unlink(settings_.path.c_str());
        file_ = {};
    }

private:
    using file_id = std::pair<::dev_t, ::ino_t>;

    [[nodiscard]] bool abstract() const noexcept { return settings_.path.front() == '\0'; }

    /// Removes a stale socket; anything else at the path is not ours to remove.
    [[nodiscard]] std::error_code make_way(const protocol_type::endpoint& endpoint) const
    {
        struct ::stat there {};
        if (abstract() || ::lstat(settings_.path.c_str(), &there) != 0)
            return {};
        if (!S_ISSOCK(there.st_mode))
            return errc::not_a_socket;
        const int probe = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (probe < 0)
            return {errno, std::system_category()};
        const bool dead = ::connect(probe, static_cast<const ::sockaddr*>(endpoint.data()),
                                    static_cast<::socklen_t>(endpoint.size()))
                != 0
            && errno == ECONNREFUSED;
        ::close(probe);
        if (!dead || settings_.stale == stale_file::refuse)
            return std::make_error_code(std::errc::address_in_use);
        if (::unlink(settings_.path.c_str()) != 0)
            return {errno, std::system_category()};
        return {};
    }

    settings settings_;
    file_id file_{};
};

}  // namespace nbd
