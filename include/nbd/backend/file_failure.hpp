// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/failure.hpp>

#include <cerrno>
#include <cstdint>
#include <optional>
#include <system_error>

namespace nbd {

/// Converts an error of the system to a failure. Errors that NBD has no value for become EIO; the
/// text then names the original error. `offset`: the first byte that failed, where it is known.
[[nodiscard]] inline failure file_failure(int error, std::optional<std::uint64_t> offset = {})
{
    const std::error_code code{error, std::system_category()};
    switch (error) {
    case EPERM:
    case EACCES:
    case EROFS:
    case EIO:
    case ENOMEM:
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EINVAL:
        return {code, {}, offset};
    default:
        return {std::make_error_code(std::errc::io_error), code.message(), offset};
    }
}

}  // namespace nbd
