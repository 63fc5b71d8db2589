// SPDX-License-Identifier: MIT
#pragma once

#include <boost/system/system_error.hpp>

#include <new>
#include <string>
#include <system_error>
#include <type_traits>

namespace nbd {

/// Why a connection ended, or why a member of the server or of its export set failed. Observers get
/// the first kind in `at_disconnect`. For a client that was never served (admission_refused,
/// too_many_connections, no_place; server_stopped while it waited for a place) they get it in
/// `at_accept_error`. too_many_exports is given to `at_option_error`, and ends nothing. Errors of
/// the operating system keep their own category.
enum class errc {
    /// The client sent bytes that are no option, or no request, where one was expected.
    bad_option_magic = 1,
    bad_request_magic,
    /// The client set client flags that were not offered (point 14).
    unknown_client_flags,
    /// The client sent more option data than settings.handshake_bytes allows.
    handshake_too_long,
    /// The client sent more options than settings.options_per_handshake allows.
    too_many_options,
    /// The server refused an EXPORT_NAME. It has no error reply, so the connection is closed (point
    /// 28).
    export_name_refused,
    /// The payload of a request is too long to be received and discarded (point 78).
    payload_too_long,
    /// The connection ended in the middle of a message.
    cut_short,
    /// The client exceeded settings.handshake_deadline, progress_timeout, send_timeout or
    /// idle_timeout. progress_timeout and send_timeout include settings.least_transfer_rate.
    handshake_timeout,
    progress_timeout,
    send_timeout,
    idle_timeout,
    /// The client was disconnected in favour of another. When all places were taken: during its
    /// handshake, while it was idle or stalled, or because its peer or its identity had more than
    /// its share; see settings.max_connections, places_per_peer and places_per_identity. When
    /// memory was short: because it was stalled or slow; see settings.server_memory.
    evicted,
    /// The server stopped, or stop() was called before start().
    server_stopped,
    /// server::disconnect was called.
    disconnected,
    /// export_set::remove was called, and told to disconnect the clients.
    export_removed,
    /// The program's `admit` function refused the connection.
    admission_refused,
    /// All places are taken, the peer has its share of them (settings.places_per_peer), and too
    /// many connections wait.
    too_many_connections,
    /// All places were taken until the new connection had waited for settings.handshake_deadline.
    no_place,

    /// There are more exports than settings.exports_listed: LIST has named the first ones.
    too_many_exports,

    /// The server, or the export, is only for clients that have started TLS.
    tls_required,
    /// The client sent many TLS messages in a row that carry no data.
    tls_flood,
    /// nbd::tls_transport has no credentials, and its mode is not tls_mode::none.
    no_tls_credentials,

    /// The settings of nbd::any_of contain no address.
    no_address,

    /// There is no export with the requested name.
    unknown_export,
    /// The program's `authorise` refused the export to the client, which is told that there is no
    /// such export.
    not_authorised,

    /// start() was called before, with or without success. A server can be started once.
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
        case errc::export_removed:
            return "the export was removed";
        case errc::admission_refused:
            return "the server's program refused the connection";
        case errc::too_many_connections:
            return "the peer has too many connections";
        case errc::no_place:
            return "no place became free in time";
        case errc::too_many_exports:
            return "there are more exports than LIST may name";
        case errc::tls_required:
            return "the client did not start TLS";
        case errc::tls_flood:
            return "the client sent too many TLS messages without data";
        case errc::no_tls_credentials:
            return "TLS needs a certificate or a file of keys";
        case errc::no_address:
            return "there is no address to listen at";
        case errc::unknown_export:
            return "there is no such export";
        case errc::not_authorised:
            return "the client is not authorised";
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

/// *Returns* the error code of the exception that is being handled. Call it in a `catch (...)`. A
/// std::system_error or boost::system::system_error gives its code, std::bad_alloc gives ENOMEM.
/// Any other exception gives EIO; so does a code that means success.
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
