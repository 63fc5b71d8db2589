// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/constants.hpp>

#include <cerrno>
#include <cstdint>
#include <string_view>
#include <system_error>

namespace nbd::protocol {

/// *Returns* the error value for a backend's error ("Error values", points 86 and 87). This is the
/// only place where an error number becomes an error value:
///
/// | error of the generic or the system category | error value |
/// |---|---|
/// | EPERM, EACCES, EROFS | EPERM |
/// | ENOMEM | ENOMEM |
/// | ENOSPC, EDQUOT, EFBIG | ENOSPC |
/// | ESHUTDOWN | ESHUTDOWN |
/// | EINVAL | EINVAL |
/// | ENOTSUP, EOPNOTSUPP | ENOTSUP if the request had FAST_ZERO, otherwise EINVAL |
/// | EOVERFLOW | EOVERFLOW if the request had DF, otherwise EINVAL |
/// | any other, for example EIO, ETIMEDOUT and ECONNREFUSED | EIO |
///
/// Every error of another category is EIO, for example one of getaddrinfo or of Asio's end of file.
/// The server checks a request before it calls the backend, so an unknown error is not EINVAL.
/// ENOTSUP and EOVERFLOW are reserved for those two commands; see the overload with command flags.
[[nodiscard]] inline error_value to_error_value(const std::error_code& ec) noexcept
{
    if (!ec)
        return error_value::none;
    if (ec.category() != std::generic_category() && ec.category() != std::system_category())
        return error_value::eio;
    switch (ec.value()) {
    case EPERM:
    case EACCES:
    case EROFS:
        return error_value::eperm;
    case ENOMEM:
        return error_value::enomem;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return error_value::enospc;
    case ESHUTDOWN:
        return error_value::eshutdown;
    case EINVAL:
    case EOVERFLOW:
    case ENOTSUP:
        return error_value::einval;
    default:  // EOPNOTSUPP is ENOTSUP on Linux
        return ec.value() == EOPNOTSUPP ? error_value::einval : error_value::eio;
    }
}

/// A fixed English text for an error value, for clients.
[[nodiscard]] constexpr std::string_view message_of(error_value e) noexcept
{
    switch (e) {
    case error_value::none:
        return "success";
    case error_value::eperm:
        return "operation not permitted";
    case error_value::eio:
        return "input/output error";
    case error_value::enomem:
        return "not enough memory";
    case error_value::einval:
        return "invalid argument";
    case error_value::enospc:
        return "no space left on the export";
    case error_value::eoverflow:
        return "the reply is too long";
    case error_value::enotsup:
        return "operation not supported";
    case error_value::eshutdown:
        return "the export is shutting down";
    }
    return "unknown error";
}

/// As above, with the command flags of the failed request: DF allows EOVERFLOW, and FAST_ZERO
/// allows ENOTSUP.
[[nodiscard]] inline error_value to_error_value(const std::error_code& ec,
                                                std::uint16_t command_flags) noexcept
{
    if ((command_flags & command_flag::fast_zero) != 0
        && (ec == std::errc::not_supported || ec == std::errc::operation_not_supported))
        return error_value::enotsup;
    if ((command_flags & command_flag::df) != 0 && ec == std::errc::value_too_large)
        return error_value::eoverflow;
    return to_error_value(ec);
}

}  // namespace nbd::protocol
