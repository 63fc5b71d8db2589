// SPDX-License-Identifier: MIT
#pragma once

#include "histogram.hpp"

#include <cstddef>
#include <cstdint>

namespace bench {

/// What one connection asks for.
struct load_plan {
    std::size_t block = 0;        ///< bytes of a request
    std::size_t depth = 1;        ///< requests under way at a time
    unsigned read_percent = 100;  ///< the others are writes
    bool random = false;          ///< else from block to block
    std::uint64_t first = 0;      ///< the part of the disk that is used, in blocks
    std::uint64_t blocks = 0;     ///< how many, from `first` on
    std::uint64_t start = 0;      ///< where to begin, counted from `first`
    bool verify = false;  ///< check what READs bring; nobody else writes to these blocks meanwhile
};

/// What was measured; times in nanoseconds.
struct tally {
    histogram latencies;
    std::uint64_t bytes = 0;  ///< payload, both ways
    std::uint64_t since = 0;  ///< what was sent before does not count
};

}  // namespace bench
