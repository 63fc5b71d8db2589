// SPDX-License-Identifier: MIT
#include "grid/allocation_count.hpp"

#include "support/sanitizers.hpp"

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <new>

#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

namespace {

std::atomic<std::size_t> count{0};
std::atomic<std::size_t> mapped{0};
std::atomic<std::size_t> until_failure{0};
std::atomic<grid::step> failing{grid::step::allocation};
std::atomic<bool> failed{false};
thread_local int exemptions = 0;

/// Whether this step is the one that fails.
bool fails(grid::step what = grid::step::allocation) noexcept
{
    auto left = until_failure.load(std::memory_order_relaxed);
    if (left == 0 || exemptions != 0 || failing != what)
        return false;
    while (left != 0 && !until_failure.compare_exchange_weak(left, left - 1)) {
    }
    if (left != 1)
        return false;
    failed.store(true);
    errno = what == grid::step::allocation ? ENOMEM : ECONNRESET;
    return true;
}

}  // namespace

std::size_t grid::allocations() noexcept
{
    return count.load();
}
std::size_t grid::mappings() noexcept
{
    return mapped.load();
}
void grid::fail(step what, std::size_t nth) noexcept
{
    until_failure.store(0);
    failed.store(false);
    failing.store(what);
    until_failure.store(nth);
}
bool grid::has_failed() noexcept
{
    return failed.load();
}
grid::exempt_from_failures::exempt_from_failures() noexcept
{
    ++exemptions;
}
grid::exempt_from_failures::~exempt_from_failures()
{
    --exemptions;
}

extern "C" {
ssize_t recv(int socket, void* to, std::size_t n, int flags)
{
    return fails(grid::step::transfer)
        ? -1
        : ::syscall(SYS_recvfrom, socket, to, n, flags, nullptr, nullptr);
}
ssize_t recvmsg(int socket, ::msghdr* message, int flags)
{
    return fails(grid::step::transfer) ? -1 : ::syscall(SYS_recvmsg, socket, message, flags);
}
ssize_t send(int socket, const void* from, std::size_t n, int flags)
{
    return fails(grid::step::transfer) ? -1
                                       : ::syscall(SYS_sendto, socket, from, n, flags, nullptr, 0);
}
ssize_t sendmsg(int socket, const ::msghdr* message, int flags)
{
    return fails(grid::step::transfer) ? -1 : ::syscall(SYS_sendmsg, socket, message, flags);
}
ssize_t sendfile(int to, int from, ::off_t* offset, std::size_t n)
{
    return fails(grid::step::transfer) ? -1 : ::syscall(SYS_sendfile, to, from, offset, n);
}
}

#if NBD_TEST_ASAN || NBD_TEST_TSAN

// A sanitizer's allocator calls this for each of its blocks.
extern "C" void __sanitizer_malloc_hook(const volatile void*, std::size_t)
{
    count.fetch_add(1, std::memory_order_relaxed);
}

// A sanitizer's operators do not call malloc. The linker replaces calls of them by calls of these;
// those that the standard library's own object makes stay.
extern "C" {
void* __real__Znwm(std::size_t);
void* __real__Znam(std::size_t);
void* __real__ZnwmRKSt9nothrow_t(std::size_t, const std::nothrow_t&);
void* __real__ZnwmSt11align_val_t(std::size_t, std::align_val_t);

void* __wrap__Znwm(std::size_t n)
{
    if (fails())
        throw std::bad_alloc{};
    return __real__Znwm(n);
}
void* __wrap__Znam(std::size_t n)
{
    if (fails())
        throw std::bad_alloc{};
    return __real__Znam(n);
}
void* __wrap__ZnwmRKSt9nothrow_t(std::size_t n, const std::nothrow_t& nothrow)
{
    return fails() ? nullptr : __real__ZnwmRKSt9nothrow_t(n, nothrow);
}
void* __wrap__ZnwmSt11align_val_t(std::size_t n, std::align_val_t alignment)
{
    if (fails())
        throw std::bad_alloc{};
    return __real__ZnwmSt11align_val_t(n, alignment);
}
}

extern "C" {
void* __interceptor_aligned_alloc(std::size_t, std::size_t);

void* aligned_alloc(std::size_t alignment, std::size_t n)
{
    if (NBD_TEST_TSAN)  // which does not call the hook for it
        count.fetch_add(1, std::memory_order_relaxed);
    return fails() ? nullptr : __interceptor_aligned_alloc(alignment, n);
}
}

#else

// Asio uses aligned_alloc instead of operator new, so malloc and its relatives are counted.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t n)
{
    count.fetch_add(1, std::memory_order_relaxed);
    return fails() ? nullptr : __libc_malloc(n);
}
void* calloc(std::size_t n, std::size_t each)
{
    count.fetch_add(1, std::memory_order_relaxed);
    return fails() ? nullptr : __libc_calloc(n, each);
}
void* realloc(void* at, std::size_t n)
{
    count.fetch_add(1, std::memory_order_relaxed);
    return fails() ? nullptr : __libc_realloc(at, n);
}
void* aligned_alloc(std::size_t alignment, std::size_t n)
{
    count.fetch_add(1, std::memory_order_relaxed);
    return fails() ? nullptr : __libc_memalign(alignment, n);
}
int posix_memalign(void** to, std::size_t alignment, std::size_t n)
{
    count.fetch_add(1, std::memory_order_relaxed);
    *to = fails() ? nullptr : __libc_memalign(alignment, n);
    return *to == nullptr ? ENOMEM : 0;
}
void* mmap(void* at, std::size_t n, int protection, int flags, int file, ::off_t offset)
{
    mapped.fetch_add(1, std::memory_order_relaxed);
    return reinterpret_cast<void*>(::syscall(SYS_mmap, at, n, protection, flags, file, offset));
}
int madvise(void* at, std::size_t n, int advice)
{
    mapped.fetch_add(1, std::memory_order_relaxed);
    return static_cast<int>(::syscall(SYS_madvise, at, n, advice));
}
}

#endif
