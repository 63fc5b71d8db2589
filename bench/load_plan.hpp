// SPDX-License-Identifier: MIT
#pragma once

#include "histogram.hpp"

#include <cstddef>
#include <cstdint>

namespace bench {

/// The load of one connection.
struct load_plan {
    std::size_t block = 0;        ///< bytes of a request
    std::size_t depth = 1;        ///< requests in flight
    unsigned read_percent = 100;  ///< the others are writes
    bool random = false;          ///< else sequential
    std::uint64_t first = 0;      ///< first block that is used
    std::uint64_t blocks = 0;     ///< number of blocks that are used
    std::uint64_t start = 0;      ///< first block of the load, counted from `first`
    bool verify = false;  ///< check the data of READs; these blocks must have no other writer
};

/// The results; times are in nanoseconds.
struct tally {
    histogram latencies;
    std::uint64_t bytes = 0;  ///< payload in both directions
    std::uint64_t since = 0;  ///< requests that were sent before do not count
};

}  // namespace bench
