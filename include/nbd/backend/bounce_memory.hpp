// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <span>

#include <pthread.h>

namespace nbd {

/// Memory that any device can do direct I/O with, for callers whose own is not aligned: a block for each
/// thread, taken from the system as it is used and given back when the thread ends.
/// Lifetime: until the thread's next call. Errors: std::bad_alloc.
[[nodiscard]] inline std::span<std::byte> bounce_memory()
{
    constexpr std::size_t alignment = std::size_t{64} << 10;
    constexpr std::size_t size = std::size_t{1} << 20;
    // Not a thread_local object with a destructor: to register one allocates, and glibc ends the program where
    // there is no memory for it.
    struct of_threads {
        ::pthread_key_t key{};
        bool is_made = ::pthread_key_create(&key, std::free) == 0;
    };
    static const of_threads memory;
    void* mine = memory.is_made ? ::pthread_getspecific(memory.key) : nullptr;
    if (mine == nullptr) {
        mine = std::aligned_alloc(alignment, size);
        if (mine == nullptr || !memory.is_made || ::pthread_setspecific(memory.key, mine) != 0) {
            std::free(mine);
            throw std::bad_alloc{};
        }
    }
    return {static_cast<std::byte*>(mine), size};
}

}  // namespace nbd
