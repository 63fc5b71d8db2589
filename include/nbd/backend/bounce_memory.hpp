// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>

namespace nbd {

/// Memory that any device can do direct I/O with, for callers whose own is not aligned: a block for each
/// thread, taken from the system as it is used and given back when the thread ends.
/// Lifetime: until the thread's next call. Errors: std::bad_alloc.
[[nodiscard]] inline std::span<std::byte> bounce_memory()
{
    constexpr std::size_t alignment = std::size_t{64} << 10;
    constexpr std::size_t size = std::size_t{1} << 20;
    struct release {
        void operator()(std::byte* memory) const noexcept { std::free(memory); }
    };
    thread_local std::unique_ptr<std::byte, release> memory;
    if (!memory) {
        memory.reset(static_cast<std::byte*>(std::aligned_alloc(alignment, size)));
        if (!memory)
            throw std::bad_alloc{};
    }
    return {memory.get(), size};
}

}  // namespace nbd
