// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <span>

#include <pthread.h>

namespace nbd {

/// *Returns* 1 MiB of memory, aligned to 64 KiB for direct I/O on any device, for callers whose own
/// memory is not aligned. Each thread has one block; the first call allocates it, and the end of
/// the thread frees it.
/// *Errors*: std::bad_alloc. *Thread safety*: any thread.
/// *Lifetime*: the content is valid until the thread calls this function again.
[[nodiscard]] inline std::span<std::byte> bounce_memory()
{
    constexpr std::size_t alignment = std::size_t{64} << 10;
    constexpr std::size_t size = std::size_t{1} << 20;
    // Not a thread_local object with a destructor: registering the destructor allocates, and glibc
    // ends the program where that allocation fails.
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
