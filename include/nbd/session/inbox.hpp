// SPDX-License-Identifier: MIT
#pragma once

#include <cassert>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>

namespace nbd::session {

/// The read-ahead buffer: bytes that were received and not yet taken, in one piece.
class inbox {
public:
    /// `capacity` bytes, untouched until they are received into.
    explicit inbox(std::size_t capacity)
        : bytes_{std::make_unique_for_overwrite<std::byte[]>(capacity)}, capacity_{capacity}
    {
    }

    [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }
    /// What is buffered; valid until the next `space()`.
    [[nodiscard]] std::span<const std::byte> buffered() const noexcept
    {
        return {bytes_.get() + begin_, end_ - begin_};
    }
    void consume(std::size_t n) noexcept
    {
        assert(n <= end_ - begin_);
        begin_ += n;
    }

    /// Where to receive into: all that is free, after what is buffered has moved to the front.
    [[nodiscard]] std::span<std::byte> space() noexcept
    {
        const auto n = end_ - begin_;
        if (begin_ != 0 && n != 0)
            std::memmove(bytes_.get(), bytes_.get() + begin_, n);
        begin_ = 0;
        end_ = n;
        return {bytes_.get() + end_, capacity_ - end_};
    }
    /// `n` bytes were received into `space()`.
    void received(std::size_t n) noexcept
    {
        assert(n <= capacity_ - end_);
        end_ += n;
    }

private:
    std::unique_ptr<std::byte[]> bytes_;
    std::size_t capacity_;
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
};

}  // namespace nbd::session
