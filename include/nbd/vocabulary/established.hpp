// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/chunk.hpp>
#include <nbd/protocol/terms.hpp>

#include <cstdint>
#include <functional>
#include <string>
#include <system_error>
#include <vector>

namespace nbd {

/// A meta context that a client selected in a handshake with somebody else.
struct established_context {
    std::string name;  ///< such as "base:allocation"
    std::uint32_t id;  ///< in the replies to BLOCK_STATUS
};

/// What a client and another program negotiated, for a connection that server::adopt takes after
/// its handshake:
///
///     server.adopt(fd, {.export_name = "disk", .structured_replies = true});
struct established {
    std::string export_name{};  ///< as a client sends it: the empty name is the default export
    bool structured_replies = false;
    bool extended_headers = false;  ///< includes structured replies
    std::vector<established_context> meta_contexts{};
    /// Called once, before the first request is received. If the export is open, it gets the size,
    /// the transmission flags and the block sizes that the handshake would have told the client.
    /// Otherwise it gets the reason, and the connection is closed: the error of the backend's
    /// `open` or of the lookup, errc::not_authorised, errc::unknown_export, errc::tls_required, or
    /// invalid_argument for a meta context that the export does not have. A connection that ends
    /// before, for example without a place, destroys it uncalled. May be empty. *Errors*: an
    /// exception closes the connection. *Thread safety*: it is called on a thread of the client,
    /// and must not block.
    std::function<void(std::error_code why, const protocol::export_terms& terms)> opened{};

    [[nodiscard]] protocol::reply_style style() const noexcept
    {
        using protocol::reply_style;
        return extended_headers  ? reply_style::extended
            : structured_replies ? reply_style::structured
                                 : reply_style::simple;
    }
};

}  // namespace nbd
