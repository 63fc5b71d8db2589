// SPDX-License-Identifier: MIT
#pragma once

namespace nbd::handshake {

/// What the session does next. It first sends `reply()`, if that is not empty, except for
/// `list_exports` and `open_export`.
enum class action {
    receive,       ///< receive `bytes_needed()` bytes, then call `process`
    list_exports,  ///< call `list_export` for exports after `list_position()`, then `continue_list`
    /// Open the export `requested_name()`, then call `export_opened` or `export_refused`.
    open_export,
    start_tls,  ///< perform the TLS handshake, then go on with `inside_tls()`
    transmit,   ///< begin the transmission phase with the export that was opened last
    close,      ///< close the connection; `close_reason()` is empty after ABORT
};

}  // namespace nbd::handshake
