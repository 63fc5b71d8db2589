// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

namespace grid {

/// The number of allocations of this program so far, on all threads, by new, malloc and
/// aligned_alloc.
[[nodiscard]] std::size_t allocations() noexcept;
/// The number of calls of mmap and madvise by this program, outside of malloc. 0 with sanitizers.
[[nodiscard]] std::size_t mappings() noexcept;

/// Makes one allocation fail: the `nth` from now on, counted over all threads that are not exempt.
/// 0 makes none fail. Replaces what an earlier call asked for. The allocation returns null, or
/// throws std::bad_alloc.
void fail_allocation(std::size_t nth) noexcept;
/// True when the allocation of the last `fail_allocation` has failed.
[[nodiscard]] bool allocation_failed() noexcept;

/// While a thread has an object of this type, its allocations do not fail.
class exempt_from_failures {
public:
    exempt_from_failures() noexcept;
    ~exempt_from_failures();
    exempt_from_failures(const exempt_from_failures&) = delete;
    exempt_from_failures& operator=(const exempt_from_failures&) = delete;
};

}  // namespace grid
