// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <span>

namespace nbd::session {

/// Memory for one large payload at a time. What is large is given back when the next is asked for.
class scratch {
public:
    /// `n` bytes, of any content; what was given before is gone.
    [[nodiscard]] std::span<std::byte> bytes(std::size_t n)
    {
        give_back();
        if (size_ < n) {
            memory_.reset();
            size_ = 0;
            memory_ = std::make_unique_for_overwrite<std::byte[]>(n);
            size_ = n;
        }
        return {memory_.get(), n};
    }

    void give_back() noexcept
    {
        if (size_ > kept) {
            memory_.reset();
            size_ = 0;
        }
    }

private:
    static constexpr std::size_t kept = std::size_t{1} << 20;
    std::unique_ptr<std::byte[]> memory_;
    std::size_t size_ = 0;
};

}  // namespace nbd::session
