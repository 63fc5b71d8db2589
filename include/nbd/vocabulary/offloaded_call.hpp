// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/intrusive_queue.hpp>

namespace nbd {

/// A call that may block, for a policy that has threads for those. It stays until it was run.
struct offloaded_call {
    void (*run)(offloaded_call&) noexcept = nullptr;
    offloaded_call* behind = nullptr;  ///< the policy's
};
/// The calls of one client that wait for a thread; the policy's. Stays until the last was run.
struct offloaded_calls {
    intrusive_queue<offloaded_call> calls;
    offloaded_calls* behind = nullptr;
};

}  // namespace nbd
