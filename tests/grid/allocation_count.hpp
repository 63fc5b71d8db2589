// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <ostream>

namespace grid {

/// The number of allocations of this program so far, on all threads, by new, malloc and
/// aligned_alloc.
[[nodiscard]] std::size_t allocations() noexcept;
/// The number of calls of mmap and madvise by this program, outside of malloc. 0 with sanitizers.
[[nodiscard]] std::size_t mappings() noexcept;

struct allocation_counts {
    std::size_t allocations;
    std::size_t mappings;
    friend bool operator==(const allocation_counts&, const allocation_counts&) = default;
    friend std::ostream& operator<<(std::ostream& to, const allocation_counts& c)
    {
        return to << c.allocations << " allocations, " << c.mappings << " mappings";
    }
};
inline constexpr allocation_counts none{0, 0};

/// What `run()` costs in steady state. How many requests are in progress at a time depends on
/// chance, and so when the state is steady: `run` is repeated until it costs nothing, at most five
/// times.
template <class Run>
[[nodiscard]] allocation_counts steady_cost(Run run)
{
    allocation_counts cost{1, 0};
    for (int i = 0; i < 5 && cost != none; ++i) {
        const allocation_counts before{allocations(), mappings()};
        run();
        cost = {allocations() - before.allocations, mappings() - before.mappings};
    }
    return cost;
}

/// What can be made to fail.
enum class step {
    allocation,  ///< returns null, or throws std::bad_alloc
    transfer,    ///< recv, recvmsg, send, sendmsg, sendfile: the connection is reset
};
/// Makes one step fail: the `nth` of its kind from now on, counted over all threads that are not
/// exempt. 0 makes none fail. Replaces what an earlier call asked for.
void fail(step what, std::size_t nth) noexcept;
/// True when the step of the last `fail` has failed.
[[nodiscard]] bool has_failed() noexcept;

/// While a thread has an object of this type, its steps do not fail.
class exempt_from_failures {
public:
    exempt_from_failures() noexcept;
    ~exempt_from_failures();
    exempt_from_failures(const exempt_from_failures&) = delete;
    exempt_from_failures& operator=(const exempt_from_failures&) = delete;
};

}  // namespace grid
