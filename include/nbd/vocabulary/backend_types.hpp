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
