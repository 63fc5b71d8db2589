// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

namespace nbd {

/// The flags of a WRITE that a backend with native FUA is told of.
struct write_flags {
    bool fua = false;  ///< the data must be on stable storage before the call returns
};

/// The flags of a WRITE_ZEROES. FUA is not among them: it becomes a flush afterwards. A write_zeroes
/// that answers std::errc::not_supported without `fast` has the server write the zeroes.
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

/// A place in an open file, whose descriptor stays the backend's; -1 = none.
struct file_range {
    int file = -1;
    std::uint64_t offset = 0;  ///< bytes, in the file
    /// Reading it cannot fail, as of a file in memory. Of another it is tried before the reply begins, which
    /// cannot be taken back.
    bool sure = false;
};

}  // namespace nbd
