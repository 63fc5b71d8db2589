// SPDX-License-Identifier: MIT
#include "allocation_count.hpp"

#include <atomic>
#include <cerrno>
#include <cstddef>

namespace {
std::atomic<std::size_t> count{0};
}

std::size_t grid::allocations() noexcept
{
    return count.load();
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)

// A sanitizer's allocator calls this for each of its blocks.
extern "C" void __sanitizer_malloc_hook(const volatile void*, std::size_t)
{
    count.fetch_add(1, std::memory_order_relaxed);
}

#ifdef __SANITIZE_THREAD__
// But not ThreadSanitizer's for what is aligned.
extern "C" {
void* __interceptor_aligned_alloc(std::size_t, std::size_t);

void* aligned_alloc(std::size_t alignment, std::size_t n)
{
    count.fetch_add(1, std::memory_order_relaxed);
    return __interceptor_aligned_alloc(alignment, n);
}
}
#endif

#else

// Asio allocates by aligned_alloc, past operator new, so it is malloc's family that is counted.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t n)
{
    count.fetch_add(1, std::memory_order_relaxed);
    return __libc_malloc(n);
}
void* calloc(std::size_t n, std::size_t each)
{
    count.fetch_add(1, std::memory_order_relaxed);
    return __libc_calloc(n, each);
}
void* realloc(void* at, std::size_t n)
{
    count.fetch_add(1, std::memory_order_relaxed);
    return __libc_realloc(at, n);
}
void* aligned_alloc(std::size_t alignment, std::size_t n)
{
    count.fetch_add(1, std::memory_order_relaxed);
    return __libc_memalign(alignment, n);
}
int posix_memalign(void** to, std::size_t alignment, std::size_t n)
{
    count.fetch_add(1, std::memory_order_relaxed);
    *to = __libc_memalign(alignment, n);
    return *to == nullptr ? ENOMEM : 0;
}
}

#endif
