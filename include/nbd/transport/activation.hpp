// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/error.hpp>
#include <nbd/vocabulary/failure.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/// The protocol of a service manager such as systemd: sockets that it passes to the program
/// (sd_listen_fds(3)), and what the program tells it (sd_notify(3)). No library is needed.
///
///     nbd::failure why;
///     auto sockets = nbd::activation::take_sockets(why);
///     if (why || sockets.empty())
///         return 1;
///     server.start_on(sockets.front().descriptor.release());
///     nbd::activation::notify("READY=1");
namespace nbd::activation {

/// A socket that the service manager has opened.
struct passed_socket {
    owned_descriptor descriptor;
    std::string name;  ///< FileDescriptorName= of the unit; empty if none was passed
    /// For server::start_on; otherwise it is connected, for server::adopt (Accept=yes).
    bool listens = false;
    int family = 0;  ///< AF_UNIX, AF_INET ...; 0: it is no socket
};

/// The first descriptor that is passed.
inline constexpr int first_descriptor = 3;

/// The values of the variables; nullopt: not set.
struct variables {
    std::optional<std::string> pid{};    ///< LISTEN_PID
    std::optional<std::string> count{};  ///< LISTEN_FDS
    std::optional<std::string> names{};  ///< LISTEN_FDNAMES
};

/// *Returns* the names of the passed descriptors, which are first_descriptor and those after it;
/// nothing if the variables are not set, or are for another process than `self`.
/// *Errors*, in `why`: invalid_argument, with a text that names the variable and what was expected.
[[nodiscard]] inline std::vector<std::string> parse(const variables& set, ::pid_t self,
                                                    failure& why)
{
    constexpr int most = std::numeric_limits<int>::max() - first_descriptor;
    const auto number = [&why](const char* variable, const std::string& text, int largest) {
        int value = 0;
        const auto* const last = text.data() + text.size();
        const auto [end, error] = std::from_chars(text.data(), last, value);
        if (error != std::errc{} || end != last || value < 1 || value > largest) {
            why = {std::errc::invalid_argument,
                   std::string{variable} + ": expected a number from 1 to "
                       + std::to_string(largest) + ", but got \"" + text + '"'};
            return 0;
        }
        return value;
    };
    why = {};
    if (!set.pid || !set.count)
        return {};
    const auto pid = number("LISTEN_PID", *set.pid, std::numeric_limits<int>::max());
    if (why || pid != self)
        return {};
    const auto count = number("LISTEN_FDS", *set.count, most);
    if (why)
        return {};
    std::vector<std::string> names;
    if (!set.names) {
        names.resize(static_cast<std::size_t>(count));
        return names;
    }
    std::string_view rest{*set.names};
    for (auto colon = rest.find(':');; colon = rest.find(':')) {
        names.emplace_back(rest.substr(0, colon));
        if (colon == rest.npos)
            break;
        rest.remove_prefix(colon + 1);
    }
    if (names.size() != static_cast<std::size_t>(count)) {
        why = {std::errc::invalid_argument,
               "LISTEN_FDNAMES: expected as many names as LISTEN_FDS says, which is "
                   + std::to_string(count) + ", separated by colons, but got \"" + *set.names
                   + '"'};
        return {};
    }
    return names;
}

/// *Returns* the descriptors from `first` on, as many as there are names; each is closed on exec
/// from now on.
/// *Errors*, in `why`: bad_file_descriptor, with a text. None is owned then.
[[nodiscard]] inline std::vector<passed_socket> own(std::vector<std::string> names, failure& why,
                                                    int first = first_descriptor)
{
    why = {};
    const auto count = static_cast<int>(names.size());
    for (int fd = first; fd < first + count; ++fd) {
        if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0) {
            why = {std::error_code{errno, std::system_category()},
                   "LISTEN_FDS: expected " + std::to_string(count) + " open descriptors from "
                       + std::to_string(first) + " on, but " + std::to_string(fd) + " is not open"};
            return {};
        }
    }
    std::vector<passed_socket> all;
    all.reserve(names.size());
    for (int fd = first; fd < first + count; ++fd) {
        ::sockaddr_storage local{};
        auto length = static_cast<::socklen_t>(sizeof(local));
        const bool is_socket =
            ::getsockname(fd, reinterpret_cast<::sockaddr*>(&local), &length) == 0;
        int listens = 0;
        length = sizeof(listens);
        ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length);
        all.push_back({owned_descriptor{fd}, std::move(names[static_cast<std::size_t>(fd - first)]),
                       listens != 0, is_socket ? local.ss_family : 0});
    }
    return all;
}

/// *Returns* the sockets that the service manager has passed to this process; nothing if it has
/// passed none. Removes LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES from the environment, so that
/// neither a later call nor a child process takes the sockets again, unless `keep_variables`.
/// *Errors*, in `why`: those of `parse` and `own`.
/// *Thread safety*: call it before the program has other threads: they may read the environment.
[[nodiscard]] inline std::vector<passed_socket> take_sockets(failure& why,
                                                             bool keep_variables = false)
{
    const auto value = [keep_variables](const char* name) {
        const char* const text = ::getenv(name);
        auto found = text != nullptr ? std::optional<std::string>{text} : std::nullopt;
        if (!keep_variables)
            ::unsetenv(name);
        return found;
    };
    variables set;
    set.pid = value("LISTEN_PID");
    set.count = value("LISTEN_FDS");
    set.names = value("LISTEN_FDNAMES");
    auto names = parse(set, ::getpid(), why);
    return why ? std::vector<passed_socket>{} : own(std::move(names), why);
}

/// Sends a state to the socket at `address`, in one datagram. A first byte '@' is that of an
/// abstract socket (Linux).
/// *Errors*: errc::path_too_long; address_family_not_supported for an address that is no absolute
/// path and has no '@'; the system's.
inline std::error_code notify_at(std::string_view address, std::string_view state) noexcept
{
    ::sockaddr_un to{};
    to.sun_family = AF_UNIX;
    if (address.size() < 2 || (address.front() != '/' && address.front() != '@'))
        return std::make_error_code(std::errc::address_family_not_supported);
    if (address.size() >= sizeof(to.sun_path))
        return errc::path_too_long;
    std::memcpy(to.sun_path, address.data(), address.size());
    if (address.front() == '@')
        to.sun_path[0] = '\0';
    const auto length =
        static_cast<::socklen_t>(offsetof(::sockaddr_un, sun_path) + address.size());
    const owned_descriptor from{::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
    if (from.get() < 0
        || ::sendto(from.get(), state.data(), state.size(), MSG_NOSIGNAL,
                    reinterpret_cast<const ::sockaddr*>(&to), length)
            < 0)
        return {errno, std::system_category()};
    return {};
}

/// Tells the service manager a state, if NOTIFY_SOCKET is set: `READY=1` when the server listens,
/// `STOPPING=1` when it begins to stop, `STATUS=...` for people; several are separated by '\n'.
/// *Errors*: those of `notify_at`. A program can ignore them.
/// *Thread safety*: any thread, while none changes the environment.
inline std::error_code notify(std::string_view state) noexcept
{
    const char* const address = ::getenv("NOTIFY_SOCKET");
    return address != nullptr && *address != '\0' ? notify_at(address, state) : std::error_code{};
}

}  // namespace nbd::activation
