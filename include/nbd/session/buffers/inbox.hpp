// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/buffers/block.hpp>

#include <algorithm>
#include <array>
#include <cassert>
#include <cstddef>
#include <cstring>
#include <span>

namespace nbd::session {

/// The read-ahead buffer: received bytes that are not consumed yet, contiguous. It begins with 2
/// KiB inside the object, which hold many requests without payload. It allocates its full capacity
/// when these are full or more is asked for, and can release it when it is empty.
/// Thread safety: distinct objects: safe. Shared objects: unsafe.
class inbox {
public:
    /// `capacity` is in bytes, and is allocated only when it is needed.
    explicit inbox(std::size_t capacity) noexcept : capacity_{capacity} {}

    [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }
    /// The received bytes that are not consumed. Lifetime: valid until the next `space()`.
    [[nodiscard]] std::span<const std::byte> buffered() const noexcept
    {
        return {bytes() + begin_, end_ - begin_};
    }
    void consume(std::size_t n) noexcept
    {
        assert(n <= end_ - begin_);
        begin_ += n;
    }

    /// Moves what is buffered to the front and returns the free space behind it, to receive into.
    /// The whole buffer has room for at least `n` bytes then; requires n <= capacity(). Errors:
    /// std::bad_alloc.
    [[nodiscard]] std::span<std::byte> space(std::size_t n = 0)
    {
        const auto left = end_ - begin_;
        if (!is_large() && capacity_ > small_.size()
            && (n > small_.size() || end_ == small_.size())) {
            block large{capacity_};
            std::memcpy(large.data(), bytes() + begin_, left);
            large_ = std::move(large);
        } else if (begin_ != 0 && left != 0) {
            std::memmove(bytes(), bytes() + begin_, left);
        }
        begin_ = 0;
        end_ = left;
        return {bytes() + end_,
                (is_large() ? capacity_ : std::min(capacity_, small_.size())) - end_};
    }
    /// `n` bytes were received into `space()`.
    void received(std::size_t n) noexcept { end_ += n; }

    [[nodiscard]] bool is_large() const noexcept { return large_.size() != 0; }
    /// Nothing is buffered, and the next `space()` returns allocated memory.
    [[nodiscard]] bool holds_much() const noexcept
    {
        return begin_ == end_ && (is_large() || end_ == small_.size());
    }
    /// Releases the allocated capacity if nothing is buffered.
    void shrink() noexcept
    {
        if (begin_ != end_)
            return;
        begin_ = end_ = 0;
        large_ = {};
    }

private:
    [[nodiscard]] const std::byte* bytes() const noexcept
    {
        return is_large() ? large_.data() : small_.data();
    }
    [[nodiscard]] std::byte* bytes() noexcept { return is_large() ? large_.data() : small_.data(); }

    std::size_t capacity_;
    block large_;
    std::array<std::byte, 2048> small_;  // uninitialised: it is received into
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
};

}  // namespace nbd::session
