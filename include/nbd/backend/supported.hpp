// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>

namespace nbd {

/// Whether a file supports an operation: assumed until an attempt shows that it does not.
/// *Thread safety*: any thread.
class supported {
public:
    supported() = default;
    supported(supported&& other) noexcept : yes_{other.yes_.load()} {}
    supported& operator=(supported&& other) noexcept
    {
        yes_ = other.yes_.load();
        return *this;
    }

    explicit operator bool() const noexcept { return yes_.load(std::memory_order_relaxed); }
    void set_unsupported() noexcept { yes_.store(false, std::memory_order_relaxed); }

private:
    std::atomic<bool> yes_ = true;
};

}  // namespace nbd
