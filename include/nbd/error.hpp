// SPDX-License-Identifier: MIT
#pragma once

#include <boost/system/system_error.hpp>

#include <new>
#include <string>
#include <system_error>
#include <type_traits>

namespace nbd {

/// Why a client was disconnected, or why a server could not start. Observers get the first kind in
/// `at_disconnect`; `server::start` reports the second. Errors of the operating system keep their
/// own category.
enum class errc {
    /// The client sent something other than an option, or a request, where one was expected.
    bad_option_magic = 1,
    bad_request_magic,
    /// The client set client flags that were not offered (point 14).
    unknown_client_flags,
    /// The client sent more option data than settings.handshake_bytes allows.
    handshake_too_long,
    /// The client sent more options than settings.options_per_handshake allows.
    too_many_options,
    /// An EXPORT_NAME was refused. It has no error reply, so the connection is closed (point 28).
    export_name_refused,
    /// A WRITE was refused whose payload is too long to be received and discarded (point 78).
    payload_too_long,
    /// The connection ended in the middle of a message.
    cut_short,
    /// One of settings.handshake_deadline, progress_timeout, send_timeout or idle_timeout has
    /// passed.
    handshake_timeout,
    progress_timeout,
    send_timeout,
    idle_timeout,
    /// The client was disconnected in favour of another: when all places were taken, during its
    /// handshake or while it was idle, see settings.max_connections; or when memory was short,
    /// because it was stalled, see settings.server_memory.
    evicted,
    /// The server stopped.
    server_stopped,
    /// server::disconnect was called.
    disconnected,
    /// The program's admission function refused the connection.
    admission_refused,
    /// All places are taken, the peer has its share of them (settings.places_per_peer), and none of its
    /// connections may be closed for a new one.
    too_many_connections,

    /// There is no export with the requested name.
    unknown_export,

    /// start() was called before; a server can be started once.
    already_started,
    /// The server was not started, or has stopped.
    not_running,
    /// Something other than a socket exists at the socket's path.
    not_a_socket,
    /// A UNIX socket's path is longer than the system allows (107 bytes on Linux).
    path_too_long,
};

}  // namespace nbd

// The only class with virtual functions, which std::error_category requires. It is outside
// namespace nbd, so that a check can require that nbd:: has no vtable.
class nbd_error_category final : public std::error_category {
public:
    [[nodiscard]] const char* name() const noexcept override { return "nbd"; }
    [[nodiscard]] std::string message(int value) const override
    {
        using nbd::errc;
        switch (static_cast<errc>(value)) {
        case errc::bad_option_magic:
            return "the client sent something that is not an option";
        case errc::bad_request_magic:
            return "the client sent something that is not a request";
        case errc::unknown_client_flags:
            return "the client set flags that were not offered";
        case errc::handshake_too_long:
            return "the client sent too much option data";
        case errc::too_many_options:
            return "the client sent too many options";
        case errc::export_name_refused:
            return "the requested export cannot be served";
        case errc::payload_too_long:
            return "the client sent a payload that is too long";
        case errc::cut_short:
            return "the connection ended in the middle of a message";
        case errc::handshake_timeout:
            return "the handshake took too long";
        case errc::progress_timeout:
            return "the client stopped in the middle of a message";
        case errc::send_timeout:
            return "the client does not read its replies";
        case errc::idle_timeout:
            return "the client was idle for too long";
        case errc::evicted:
            return "the client was disconnected to make room for another";
        case errc::server_stopped:
            return "the server stopped";
        case errc::disconnected:
            return "the server's program disconnected the client";
        case errc::admission_refused:
            return "the server's program refused the connection";
        case errc::too_many_connections:
            return "the peer has too many connections";
        case errc::unknown_export:
            return "there is no such export";
        case errc::already_started:
            return "the server was already started";
        case errc::not_running:
            return "the server is not running";
        case errc::not_a_socket:
            return "the path exists and is not a socket";
        case errc::path_too_long:
            return "the socket's path is too long";
        }
        return "unknown error";
    }
};

namespace nbd {

/// The category of errc, named "nbd".
[[nodiscard]] inline const std::error_category& error_category() noexcept
{
    static const nbd_error_category category;
    return category;
}

/// *Returns* the error code of the exception that is being handled. Call it in a `catch (...)`. The
/// code of std::system_error and of Boost's system_error, which is another type; ENOMEM for
/// std::bad_alloc; EIO for every other exception.
[[nodiscard]] inline std::error_code current_error() noexcept
{
    std::error_code code;
    try {
        throw;
    } catch (const boost::system::system_error& e) {
        code = e.code();
    } catch (const std::system_error& e) {
        code = e.code();
    } catch (const std::bad_alloc&) {
        code = std::make_error_code(std::errc::not_enough_memory);
    } catch (...) {
    }
    return code ? code : std::make_error_code(std::errc::io_error);
}

/// For std::error_code's converting constructor.
[[nodiscard]] inline std::error_code make_error_code(errc e) noexcept
{
    return {static_cast<int>(e), error_category()};
}

}  // namespace nbd

template <>
struct std::is_error_code_enum<nbd::errc> : std::true_type {};
