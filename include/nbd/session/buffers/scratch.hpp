// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/buffers/block.hpp>

#include <cstddef>
#include <span>

namespace nbd::session {

/// Memory for one large payload at a time.
class scratch {
public:
    /// `n` bytes, of any content; what was given before is gone.
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
