// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/io/send_file.hpp>
#include <nbd/session/buffers/block.hpp>

#include <boost/asio/buffer.hpp>

#include <algorithm>
#include <array>
#include <cassert>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>

namespace nbd::session {

/// Data on their way out that are somebody else's: memory, a part of a file, or what is in a pipe. They must stay as long
/// as the outbox that they are lent to has not sent them.
struct lent_data {
    std::span<const std::byte> memory{};
    file_range file{};
    std::size_t length = 0;

    lent_data() = default;
    template <std::convertible_to<std::span<const std::byte>> Memory>
    lent_data(const Memory& m) noexcept : memory{m}, length{memory.size()}
    {
    }
    lent_data(file_range f, std::size_t n) noexcept : file{f}, length{n} {}

    [[nodiscard]] bool none() const noexcept { return length == 0; }
    [[nodiscard]] bool in_file() const noexcept { return file.file >= 0; }
    [[nodiscard]] bool in_pipe() const noexcept
    {
        return in_file() && file.offset == io::next_in_pipe;
    }
    /// `n` bytes from `at` on.
    [[nodiscard]] lent_data part(std::size_t at, std::size_t n) const noexcept
    {
        return in_file() ? lent_data{behind(file, at), n} : lent_data{memory.subspan(at, n)};
    }
    /// The same place, `n` bytes further on; a pipe moves on by itself.
    [[nodiscard]] static file_range behind(file_range f, std::size_t n) noexcept
    {
        if (f.offset != io::next_in_pipe)
            f.offset += n;
        return f;
    }
};

/// Replies on their way out, gathered for one send: bytes of its own, and data that were lent. It
/// holds memory only while it is not empty.
class outbox {
public:
    /// Asio passes at most 64 buffers to one system call; more would wait for the next.
    static constexpr std::size_t max_pieces = 64;

    /// `capacity` bytes of its own.
    explicit outbox(std::size_t capacity) noexcept : capacity_{capacity} {}

    [[nodiscard]] bool empty() const noexcept { return first_ == last_; }
    [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }

    /// Bytes that were added since it was empty.
    [[nodiscard]] std::uint64_t gathered() const noexcept { return gathered_; }

    /// Whether `own` bytes and `lent` lent pieces can still be added.
    [[nodiscard]] bool fits(std::size_t own, std::size_t lent) const noexcept
    {
        return own <= capacity_ - used_ && last_ + lent + 1 <= max_pieces;
    }

    /// `n` bytes to fill, which go out behind everything added before. Requires fits(n, 0).
    [[nodiscard]] std::span<std::byte> append(std::size_t n)
    {
        assert(fits(n, 0));
        if (bytes_.size() == 0)
            bytes_ = block{capacity_};
        const std::span<std::byte> room{bytes_.data() + used_, n};
        used_ += n;
        gathered_ += n;
        if (own_piece_open_) {
            auto& piece = pieces_[last_ - 1];
            piece = {piece.data(), piece.size() + n};
        } else {
            add({room.data(), n}, {});
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
        gathered_ -= n;
        settle();
    }

    /// Data of somebody else's that go out as they are.
    void lend(const lent_data& data) noexcept
    {
        assert(last_ < max_pieces);
        own_piece_open_ = false;
        gathered_ += data.length;
        if (data.in_file()) {
            in_files_ = std::min(in_files_, last_);
            add({nullptr, data.length}, data.file);
        } else {
            add({data.memory.data(), data.memory.size()}, {});
        }
    }

    /// What is to be sent next, up to the first part of a file; an Asio ConstBufferSequence.
    [[nodiscard]] std::span<const boost::asio::const_buffer> pieces() const noexcept
    {
        return {pieces_.data() + first_, std::min(in_files_, last_) - first_};
    }
    /// The part of a file that is to be sent next; only where `pieces()` is empty and this is not.
    [[nodiscard]] lent_data file() const noexcept
    {
        return {files_[first_], pieces_[first_].size()};
    }
    /// A part of a file comes after `pieces()`, so that more follows at once.
    [[nodiscard]] bool file_follows() const noexcept { return in_files_ < last_; }

    /// Nothing of it will be sent.
    void clear() noexcept
    {
        first_ = last_;
        settle();
    }
    /// `n` bytes were sent.
    void sent(std::size_t n) noexcept
    {
        while (n != 0) {
            auto& piece = pieces_[first_];
            const auto part = std::min(n, piece.size());
            if (files_[first_].file >= 0) {
                files_[first_] = lent_data::behind(files_[first_], part);
                piece = {nullptr, piece.size() - part};
            } else {
                piece += part;
            }
            n -= part;
            if (piece.size() != 0)
                return;
            ++first_;
        }
        settle();
    }

private:
    void add(boost::asio::const_buffer piece, file_range file) noexcept
    {
        pieces_[last_] = piece;
        files_[last_++] = file;
    }

    /// What is empty is done with.
    void settle() noexcept
    {
        while (first_ != last_ && pieces_[first_].size() == 0)
            ++first_;
        if (first_ == last_) {
            first_ = last_ = used_ = 0;
            gathered_ = 0;
            in_files_ = max_pieces;
            own_piece_open_ = false;
            bytes_ = {};
            return;
        }
        if (in_files_ < first_)
            in_files_ = static_cast<std::size_t>(
                std::find_if(files_.begin() + static_cast<std::ptrdiff_t>(first_),
                             files_.begin() + static_cast<std::ptrdiff_t>(last_),
                             [](const file_range& f) { return f.file >= 0; })
                - files_.begin());
        if (in_files_ >= last_)
            in_files_ = max_pieces;
    }

    block bytes_;
    std::size_t capacity_;
    std::size_t used_ = 0;
    std::uint64_t gathered_ = 0;
    std::array<boost::asio::const_buffer, max_pieces> pieces_;
    std::array<file_range, max_pieces> files_;
    std::size_t first_ = 0;
    std::size_t last_ = 0;
    std::size_t in_files_ = max_pieces;  ///< the first piece that is part of a file
    bool own_piece_open_ = false;
};

}  // namespace nbd::session
