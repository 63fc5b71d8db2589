// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

namespace nbd {

/// The flags of a WRITE, for a backend with native FUA.
struct write_flags {
    bool fua = false;  ///< the data must be on stable storage before the call returns
};

/// The flags of a WRITE_ZEROES. There is none for FUA: the server flushes after the call or, for a
/// backend without flush, writes the zeroes with native FUA instead. If write_zeroes returns
/// std::errc::not_supported and `fast` is not set, the server writes the zeroes.
struct zero_flags {
    bool no_hole = false;  ///< the range must be fully provisioned afterwards
    bool fast = false;  ///< fail at once with std::errc::not_supported unless faster than writing
};

/// What a backend can do at run time, of what its type offers (`abilities() const`). It withholds
/// abilities from clients and adds none. A request that needs a withheld ability gets an error, as
/// if the backend's type did not have the member.
struct abilities {
    bool read_only = false;    ///< WRITE, TRIM and WRITE_ZEROES get EPERM
    bool flush = true;         ///< false also withholds `fua`: the server flushes for some of these
    bool fua = true;           ///< the flag FUA of requests
    bool trim = true;          ///< TRIM
    bool write_zeroes = true;  ///< WRITE_ZEROES; false also withholds `fast_zero`
    bool fast_zero = true;     ///< the flag FAST_ZERO of WRITE_ZEROES
    bool cache = true;         ///< CACHE
    bool resize = true;        ///< RESIZE of clients; export_set::resize still calls the backend
    bool multi_conn = true;    ///< the promise `multi_conn`
    bool rotational = false;   ///< tells clients that seeks are expensive, as the promise does
};

/// Why the server calls a backend's `drain`.
enum class drain_reason {
    last_client_left,  ///< no client uses the export any more; others may come
    export_removed,    ///< the export was removed, and no client uses it any more
    server_stopped,    ///< the server has stopped, and its clients have left
};

/// How many calls of a backend may run at the same time (nbdkit's thread models).
enum class concurrency {
    serialize_all,     ///< one call at a time; the server takes a lock for each
    serialize_client,  ///< one call at a time for each client; several clients at once
    parallel,          ///< any number, from any threads
};

/// A place in an open file. The backend keeps the descriptor open; -1: none.
struct file_range {
    int file = -1;
    std::uint64_t offset = 0;  ///< bytes, in the file
    /// Reading cannot fail: the file is in memory, for example. Other files are read before the
    /// reply begins, because a reply that has begun cannot become an error.
    bool sure = false;
};

}  // namespace nbd
