// SPDX-License-Identifier: MIT
#pragma once

namespace nbd::handshake {

/// What the session is to do after the negotiator took some bytes. In every case `reply()` goes out
/// first, if there is any.
enum class action {
    more,      ///< receive `wants()` more bytes
    list,      ///< call `list` for every export, then `listed`
    open,      ///< open the export `asked_name()`, then call `opened` or `refused`
    transmit,  ///< the transmission phase starts with the export that was opened last
    close,     ///< close; `ended()` says why, nothing after a clean ABORT
};

}  // namespace nbd::handshake
