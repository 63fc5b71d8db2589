// SPDX-License-Identifier: MIT
#include "backend/uring_kernel.hpp"

#include <cerrno>
#include <mutex>

#include <dlfcn.h>

using nbd_test::uring_kernel;

namespace {
std::mutex counting;

template <class F>
F* real(const char* name)
{
    return reinterpret_cast<F*>(::dlsym(RTLD_NEXT, name));
}
bool takes_one(int& count)
{
    return count != 0 && count-- != 0;
}
}  // namespace

extern "C" int io_uring_submit(void* ring)
{
    static auto* const submit = real<int(void*)>("io_uring_submit");
    {
        const std::lock_guard lock{counting};
        ++uring_kernel::submissions;
        if (takes_one(uring_kernel::refuse_submissions))
            return -uring_kernel::submission_error;
    }
    return submit(ring);
}

extern "C" int io_uring_queue_init(unsigned entries, void* ring, unsigned flags)
{
    static auto* const init = real<int(unsigned, void*, unsigned)>("io_uring_queue_init");
    {
        const std::lock_guard lock{counting};
        if ((flags & uring_kernel::refused_flags) != 0)
            return -EINVAL;
        if (takes_one(uring_kernel::refuse_rings))
            return -uring_kernel::ring_error;
        ++uring_kernel::rings;
    }
    return init(entries, ring, flags);
}
