// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/buffers/block.hpp>

#include <cstddef>
#include <span>

namespace nbd::session {

/// Memory for one large payload at a time. Thread safety: distinct objects: safe. Shared objects: unsafe.
class scratch {
public:
    /// `n` uninitialised bytes. Lifetime: valid until the next call of a member. Errors: std::bad_alloc.
    [[nodiscard]] std::span<std::byte> bytes(std::size_t n)
    {
        if (memory_.size() < n) {
            memory_ = {};
            memory_ = block{n};
        }
        return memory_.first(n);
    }

    void give_back() noexcept { memory_ = {}; }

private:
    block memory_;
};

}  // namespace nbd::session
