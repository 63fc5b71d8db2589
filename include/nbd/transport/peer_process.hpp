// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/client.hpp>

#include <optional>

#include <sys/socket.h>
#include <sys/types.h>

namespace nbd {

/// *Returns* the process that created the other end of a UNIX socket; nothing if the system does
/// not report it, as for a socket of another family.
[[nodiscard]] inline std::optional<unix_process> peer_process([[maybe_unused]] int socket) noexcept
{
#ifdef SO_PEERCRED
    struct ::ucred who {};
    ::socklen_t length = sizeof(who);
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &who, &length) == 0
        && who.uid != static_cast<::uid_t>(-1))
        return unix_process{who.pid, who.uid, who.gid};
#endif
    return std::nullopt;
}

}  // namespace nbd
