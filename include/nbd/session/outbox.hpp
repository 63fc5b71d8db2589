// SPDX-License-Identifier: MIT
#pragma once

#include <boost/asio/buffer.hpp>

#include <array>
#include <cassert>
#include <cstddef>
#include <memory>
#include <span>

namespace nbd::session {

/// Replies on their way out, gathered for one send: bytes of its own, and memory that was lent.
class outbox {
public:
    /// Asio passes at most 64 buffers to one system call; more would wait for the next.
    static constexpr std::size_t max_pieces = 64;

    /// `capacity` bytes of its own, untouched until they are written to.
    explicit outbox(std::size_t capacity)
        : bytes_{std::make_unique_for_overwrite<std::byte[]>(capacity)}, capacity_{capacity}
    {
    }

    [[nodiscard]] bool empty() const noexcept { return first_ == last_; }
    [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }

    /// Whether `own` bytes and `lent` lent pieces can still be added.
    [[nodiscard]] bool fits(std::size_t own, std::size_t lent) const noexcept
    {
        return own <= capacity_ - used_ && last_ + lent + 1 <= max_pieces;
    }

    /// `n` bytes to fill, which go out behind everything added before. Requires fits(n, 0).
    [[nodiscard]] std::span<std::byte> append(std::size_t n) noexcept
    {
        assert(fits(n, 0));
        const std::span<std::byte> room{bytes_.get() + used_, n};
        used_ += n;
        if (own_piece_open_) {
            auto& piece = pieces_[last_ - 1];
            piece = {piece.data(), piece.size() + n};
        } else {
            pieces_[last_++] = {room.data(), n};
            own_piece_open_ = true;
        }
        return room;
    }

    /// Takes back the last `n` bytes of the last append.
    void retract(std::size_t n) noexcept
    {
        auto& piece = pieces_[last_ - 1];
        assert(own_piece_open_ && n <= piece.size());
        piece = {piece.data(), piece.size() - n};
        used_ -= n;
    }

    /// Memory of somebody else's that goes out as it is; it must stay until it is sent.
    void lend(std::span<const std::byte> memory) noexcept
    {
        assert(last_ < max_pieces);
        pieces_[last_++] = {memory.data(), memory.size()};
        own_piece_open_ = false;
    }

    /// What is to be sent, an Asio ConstBufferSequence.
    [[nodiscard]] std::span<const boost::asio::const_buffer> pieces() const noexcept
    {
        return {pieces_.data() + first_, last_ - first_};
    }

    /// `n` bytes were sent.
    void sent(std::size_t n) noexcept
    {
        while (n != 0) {
            auto& piece = pieces_[first_];
            if (n < piece.size()) {
                piece += n;
                return;
            }
            n -= piece.size();
            ++first_;
        }
        while (first_ != last_ && pieces_[first_].size() == 0)
            ++first_;
        if (first_ == last_) {
            first_ = last_ = used_ = 0;
            own_piece_open_ = false;
        }
    }

private:
    std::unique_ptr<std::byte[]> bytes_;
    std::size_t capacity_;
    std::size_t used_ = 0;
    std::array<boost::asio::const_buffer, max_pieces> pieces_;
    std::size_t first_ = 0;
    std::size_t last_ = 0;
    bool own_piece_open_ = false;
};

}  // namespace nbd::session
