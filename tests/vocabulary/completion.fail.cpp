// SPDX-License-Identifier: MIT
// Wrong uses of a completion.
// expect COPIED: nbd: a completion is not copied; use std::move
// expect IN_A_LAMBDA_THAT_IS_NOT_MUTABLE: nbd: this completion is constant; a lambda that calls it
#include <nbd/vocabulary/completion.hpp>

#include <utility>

inline void keep(nbd::completion) {}

void call([[maybe_unused]] nbd::completion done)
{
#if defined COPIED
    keep(done);
#elif defined IN_A_LAMBDA_THAT_IS_NOT_MUTABLE
    const auto later = [d = std::move(done)] { d(); };
    later();
#else
    auto later = [d = std::move(done)]() mutable { d(); };
    later();
#endif
}
