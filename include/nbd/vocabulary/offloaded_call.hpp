// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/intrusive_queue.hpp>

namespace nbd {

/// A call that may block, for a policy that has threads for such calls. *Lifetime*: until `run` is
/// called.
struct offloaded_call {
    void (*run)(offloaded_call&) noexcept = nullptr;
    offloaded_call* behind = nullptr;  ///< for the policy's queue
};
/// The queued calls of one client, managed by the policy. *Lifetime*: until the last call has run.
struct offloaded_calls {
    intrusive_queue<offloaded_call> calls;
    offloaded_calls* behind = nullptr;  ///< for the policy's queue
};

}  // namespace nbd
