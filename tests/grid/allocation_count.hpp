// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

namespace grid {

/// How often this program has asked for memory, on any thread, by any way (new, malloc, memalign).
[[nodiscard]] std::size_t allocations() noexcept;

}  // namespace grid
