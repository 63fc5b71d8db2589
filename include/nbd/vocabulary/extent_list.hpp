// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace nbd {

/// A part of an export whose status is the same throughout.
struct extent {
    std::uint64_t length = 0;  ///< bytes, not zero
    std::uint64_t flags = 0;   ///< for base:allocation, protocol::state_flag bits

    friend bool operator==(const extent&, const extent&) = default;
};

/// The extents that a backend reports for a range; each follows the one before, from the start of
/// the range. The list stays inside the range and its limit, holds no empty extent and joins
/// neighbours of the same status, whatever the backend adds. It is not copied: a backend that took
/// it by value would fill a copy.
class extent_list {
public:
    extent_list() = default;
    extent_list(extent_list&&) = default;
    extent_list& operator=(extent_list&&) = default;

    /// Clears the list for a range of `length` bytes and at most `most` extents.
    void begin(std::uint64_t length, std::size_t most)
    {
        list_.clear();
        left_ = length;
        most_ = most;
    }

    /// Appends an extent: the next `length` bytes have this status. *Returns* false when no more is
    /// needed, because the range is covered or the limit is reached; the backend can stop then.
    /// *Errors*: std::bad_alloc.
    bool add(std::uint64_t length, std::uint64_t flags)
    {
        length = std::min(length, left_);
        if (length != 0) {
            if (!list_.empty() && list_.back().flags == flags) {
                list_.back().length += length;
            } else if (list_.size() == most_) {
                left_ = 0;
                return false;
            } else {
                list_.push_back({length, flags});
            }
            left_ -= length;
        }
        return left_ != 0;
    }

    /// Removes all extents, and frees the memory if it holds more than `most_kept` extents.
    void give_back(std::size_t most_kept) noexcept
    {
        list_.clear();
        if (list_.capacity() > most_kept)
            list_ = std::vector<extent>{};  // `= {}` keeps the memory
    }

    [[nodiscard]] std::span<const extent> extents() const noexcept { return list_; }
    [[nodiscard]] bool empty() const noexcept { return list_.empty(); }

private:
    std::vector<extent> list_;
    std::uint64_t left_ = 0;
    std::size_t most_ = 0;
};

}  // namespace nbd
