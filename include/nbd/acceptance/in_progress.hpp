// SPDX-License-Identifier: MIT
#pragma once

#include <utility>

namespace nbd::acceptance {

/// Held by a handler: says through `flag` that its operation is under way, for as long as the handler
/// lives, also where it is destroyed without being called.
class in_progress {
public:
    explicit in_progress(bool& flag) noexcept : flag_{&flag} { flag = true; }
    in_progress(in_progress&& other) noexcept : flag_{std::exchange(other.flag_, nullptr)} {}
    in_progress& operator=(in_progress&&) = delete;
    ~in_progress()
    {
        if (flag_ != nullptr)
            *flag_ = false;
    }

private:
    bool* flag_;
};

}  // namespace nbd::acceptance
