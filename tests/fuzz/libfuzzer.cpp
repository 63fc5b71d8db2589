// SPDX-License-Identifier: MIT
// For libFuzzer. NBD_FUZZ_TARGET names the target.
#include "targets.hpp"

#include <cstdio>
#include <cstdlib>

namespace {
nbd_fuzz::target chosen = nullptr;
}

extern "C" int LLVMFuzzerInitialize(int*, char***)
{
    const char* const name = std::getenv("NBD_FUZZ_TARGET");
    chosen = nbd_fuzz::target_named(name != nullptr ? name : "");
    if (chosen == nullptr) {
        std::fprintf(stderr, "NBD_FUZZ_TARGET names no target\n");
        std::exit(2);
    }
    nbd_fuzz::be_quick();
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size)
{
    chosen(data, size);
    return 0;
}
