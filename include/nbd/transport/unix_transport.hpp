// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/transport.hpp>
#include <nbd/error.hpp>
#include <nbd/protocol/uri.hpp>
#include <nbd/transport/peer_process.hpp>
#include <nbd/vocabulary/client.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/socket_base.hpp>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace nbd {

/// The process that created the client's end of a UNIX connection.
struct unix_peer {
    /// No user and no group: the system does not report them.
    static constexpr auto unknown = static_cast<::uid_t>(-1);

    ::pid_t process = 0;  ///< 0 if it is outside of this process's PID namespace
    ::uid_t user = unknown;
    ::gid_t group = unknown;

    [[nodiscard]] std::string text() const
    {
        return user == unknown ? "unix"
                               : "pid " + std::to_string(process) + " uid " + std::to_string(user);
    }
    /// Tells the process, its user and its group.
    void describe(client& who) const
    {
        who.transport = "unix";
        if (user != unknown)
            who.process = unix_process{process, user, group};
    }
    /// Whether both have the same user; see settings.places_per_peer.
    [[nodiscard]] friend bool same_origin(const unix_peer& a, const unix_peer& b) noexcept
    {
        return a.user == b.user;
    }
};

/// UNIX stream sockets.
class unix_transport {
public:
    /// What start() does if a socket on which no process listens exists at the path, as after a
    /// server was killed.
    enum class stale_file { replace, refuse };

    struct settings {
        /// The path of the socket. A first byte of 0 makes it abstract: no file (Linux).
        std::string path;
        /// Largest number of connections that wait to be accepted.
        int backlog = 100;
        /// Permissions of the socket file. The default allows only the owner.
        ::mode_t mode = 0600;
        stale_file stale = stale_file::replace;
    };

    using protocol_type = boost::asio::local::stream_protocol;
    using peer_type = unix_peer;

    explicit unix_transport(settings s) : settings_{std::move(s)} {}

    /// Opens, binds and listens. Servers of this library that start on one path at the same time
    /// lock its folder, so that one of them succeeds. A folder without read permission cannot be
    /// locked.
    /// *Errors*: invalid_argument for an empty path; errc::path_too_long; errc::not_a_socket;
    /// address_in_use if a process listens on the socket, or if the socket is stale and `stale` is
    /// `refuse`; the system's. After an error, the socket is closed and its file is removed.
    template <class Acceptor>
    [[nodiscard]] std::error_code listen(Acceptor& acceptor)
    {
        if (settings_.path.empty())
            return std::make_error_code(std::errc::invalid_argument);
        if (settings_.path.size() >= sizeof(::sockaddr_un::sun_path))
            return errc::path_too_long;
        const protocol_type::endpoint endpoint{settings_.path};
        folder_ = current_folder();
        owned_descriptor owned{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
        if (owned.get() < 0)
            return {errno, std::system_category()};
        boost::system::error_code failed;
        acceptor.assign(endpoint.protocol(), owned.get(), failed);
        if (failed)
            return failed;
        const int fd = owned.release();
        const folder_lock lock{abstract() ? std::string{} : settings_.path};
        failed = remove_stale(endpoint);
        // bind(2) creates the file with the mode of the socket, so its permissions are never wider
        // than `mode`.
        if (!failed && !abstract())
            ::fchmod(fd, settings_.mode);
        if (!failed)
            acceptor.bind(endpoint, failed);
        if (!failed && !abstract())
            failed = adopt_file();
        if (!failed)
            acceptor.listen(settings_.backlog, failed);
        if (failed) {
            boost::system::error_code ignored;
            acceptor.close(ignored);
            close();
        }
        return failed;
    }

    /// Sets a large send buffer, so that one system call can send a whole batch of replies.
    template <class Socket>
    void prepare(Socket& socket) noexcept
    {
        boost::system::error_code ignored;
        socket.set_option(boost::asio::socket_base::send_buffer_size{2 << 20}, ignored);
    }

    template <class Socket>
    [[nodiscard]] peer_type peer(Socket& socket) const
    {
        const auto found = peer_process(socket.native_handle());
        return found ? peer_type{found->process, found->user, found->group} : peer_type{};
    }

    /// *Returns* a URI with an absolute path: a relative one was relative to the current folder of
    /// listen().
    [[nodiscard]] std::string uri(const protocol_type::endpoint& endpoint,
                                  std::string_view name) const
    {
        const auto path = endpoint.path();
        if (path.empty() || path.front() == '/' || path.front() == '\0')
            return protocol::unix_uri(path, name);
        return protocol::unix_uri(((folder_.empty() ? current_folder() : folder_) / path).string(),
                                  name);
    }

    /// *Returns* the path; "@name" for an abstract socket.
    [[nodiscard]] std::string where() const
    {
        return settings_.path.starts_with('\0') ? '@' + settings_.path.substr(1) : settings_.path;
    }

    /// Removes the socket file, if it is still the one that listen() created.
    void close() noexcept
    {
        if (const auto made = std::exchange(file_, {}); made && identity(settings_.path) == made)
            ::unlink(settings_.path.c_str());
    }

private:
    struct file_identity {
        ::dev_t device = 0;
        ::ino_t inode = 0;
        friend bool operator==(const file_identity&, const file_identity&) = default;
    };

    /// An exclusive flock(2) on the folder of a path. After one second without success, it goes on
    /// without the lock.
    class folder_lock {
    public:
        explicit folder_lock(const std::string& path)
        {
            if (path.empty())
                return;
            const auto slash = path.rfind('/');
            const auto folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
            fd_ = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            for (int i = 0; i < 1000 && fd_ >= 0 && ::flock(fd_, LOCK_EX | LOCK_NB) != 0; ++i)
                std::this_thread::sleep_for(std::chrono::milliseconds{1});
        }
        folder_lock(const folder_lock&) = delete;
        folder_lock& operator=(const folder_lock&) = delete;
        ~folder_lock()
        {
            if (fd_ >= 0)
                ::close(fd_);
        }

    private:
        int fd_ = -1;
    };

    [[nodiscard]] static std::filesystem::path current_folder()
    {
        std::error_code ignored;  // without a current folder, the path stays relative
        return std::filesystem::current_path(ignored);
    }
    [[nodiscard]] bool abstract() const noexcept { return settings_.path.front() == '\0'; }

    /// *Returns* the identity of the socket at a path; nothing if there is none.
    [[nodiscard]] static std::optional<file_identity> identity(const std::string& path) noexcept
    {
        struct ::stat there {};
        if (::lstat(path.c_str(), &there) != 0 || !S_ISSOCK(there.st_mode))
            return std::nullopt;
        return file_identity{there.st_dev, there.st_ino};
    }

    /// Records the file that bind() created, and sets its mode if the umask removed bits.
    [[nodiscard]] std::error_code adopt_file()
    {
        struct ::stat made {};
        if (::lstat(settings_.path.c_str(), &made) != 0)
            return {errno, std::system_category()};
        file_ = file_identity{made.st_dev, made.st_ino};
        if ((made.st_mode & 07777U) != settings_.mode
            && ::chmod(settings_.path.c_str(), settings_.mode) != 0)
            return {errno, std::system_category()};
        return {};
    }

    /// Removes a stale socket. Anything else at the path is kept. *Errors*: errc::not_a_socket;
    /// address_in_use.
    [[nodiscard]] std::error_code remove_stale(const protocol_type::endpoint& endpoint) const
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

        // Another program may have replaced the file since lstat(2). So it is renamed, checked
        // again, and only then removed.
        const auto aside = settings_.path + ".stale-" + std::to_string(::getpid());
        if (::rename(settings_.path.c_str(), aside.c_str()) != 0)
            return {errno, std::system_category()};
        if (identity(aside) == file_identity{there.st_dev, there.st_ino}) {
            ::unlink(aside.c_str());
            return {};
        }
        if (::link(aside.c_str(), settings_.path.c_str()) == 0)
            ::unlink(aside.c_str());
        return std::make_error_code(std::errc::address_in_use);
    }

    settings settings_;
    std::filesystem::path folder_;  ///< the current folder when it began to listen
    std::optional<file_identity> file_;
};

}  // namespace nbd
