// SPDX-License-Identifier: MIT
#pragma once

#include <cerrno>

namespace nbd {

/// Whether the system may have refused a system call that failed with `error`, as the seccomp
/// profiles of containers do. The caller then tries another call.
[[nodiscard]] constexpr bool may_be_refused(int error) noexcept
{
    return error == EPERM || error == ENOSYS || error == EINVAL || error == EOPNOTSUPP;
}

}  // namespace nbd
