// SPDX-License-Identifier: MIT
#pragma once

#include <sys/resource.h>

namespace bench {

/// Each connection uses a descriptor, and the usual soft limit is only 1024.
inline void raise_descriptor_limit()
{
    ::rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        ::setrlimit(RLIMIT_NOFILE, &limit);
    }
}

}  // namespace bench
