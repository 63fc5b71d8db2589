// SPDX-License-Identifier: MIT
#pragma once

#include <utility>

#include <unistd.h>

namespace nbd {

/// A descriptor that is closed unless it is released.
class owned_descriptor {
public:
    explicit owned_descriptor(int fd) noexcept : fd_{fd} {}
    owned_descriptor(owned_descriptor&& other) noexcept : fd_{other.release()} {}
    owned_descriptor& operator=(owned_descriptor&&) = delete;
    ~owned_descriptor()
    {
        if (fd_ >= 0)
            ::close(fd_);
    }
    [[nodiscard]] int get() const noexcept { return fd_; }
    int release() noexcept { return std::exchange(fd_, -1); }

private:
    int fd_;
};

}  // namespace nbd
