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
#include <stdexcept>

namespace nbd::session {

/// Data to be sent that the outbox does not own: memory, a part of a file, or the content of a pipe.
/// Lifetime: valid until the outbox that they are lent to has sent them or is cleared.
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
    /// The range after the first `n` bytes; a pipe has no offset.
    [[nodiscard]] static file_range behind(file_range f, std::size_t n) noexcept
    {
        if (f.offset != io::next_in_pipe)
            f.offset += n;
        return f;
    }
};

/// Replies to be sent, gathered for one send: bytes that it owns, and data that were lent. It allocates
/// memory when the first bytes are appended and releases it when everything is sent.
/// Thread safety: distinct objects: safe. Shared objects: unsafe.
class outbox {
public:
    /// Asio passes at most 64 buffers to one system call.
    static constexpr std::size_t max_pieces = 64;

    /// `capacity` bytes can be owned at a time.
    explicit outbox(std::size_t capacity) noexcept : capacity_{capacity} {}

    [[nodiscard]] bool empty() const noexcept { return first_ == last_; }
    [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }

    /// Bytes added since it was empty, lent ones too.
    [[nodiscard]] std::uint64_t gathered() const noexcept { return gathered_; }

    /// Whether `own` owned bytes and `lent` lent pieces can be added.
    [[nodiscard]] bool fits(std::size_t own, std::size_t lent) const noexcept
    {
        return own <= capacity_ - used_ && last_ + lent + 1 <= max_pieces;
    }

    /// Takes the memory for owned bytes, so that `append` does not throw until the outbox is empty
    /// again. Errors: std::bad_alloc.
    void reserve()
    {
        if (bytes_.size() == 0)
            bytes_ = block{capacity_};
    }

    /// Appends `n` owned bytes and returns them, to be filled before the next send. Errors:
    /// std::length_error unless fits(n, 0); std::bad_alloc.
    [[nodiscard]] std::span<std::byte> append(std::size_t n)
    {
        if (!fits(n, 0)) [[unlikely]]
            throw std::length_error{"nbd: the outbox has no room for this reply"};
        reserve();
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

    /// Removes the last `n` bytes of the last append.
    void retract(std::size_t n) noexcept
    {
        auto& piece = pieces_[last_ - 1];
        assert(own_piece_open_ && n <= piece.size());
        piece = {piece.data(), piece.size() - n};
        used_ -= n;
        gathered_ -= n;
        if (piece.size() == 0) {
            --last_;
            own_piece_open_ = false;
        }
    }

    /// Appends lent data. Errors: std::length_error unless fits(0, 1).
    void lend(const lent_data& data)
    {
        if (last_ == max_pieces) [[unlikely]]
            throw std::length_error{"nbd: the outbox has no room for this reply"};
        own_piece_open_ = false;
        gathered_ += data.length;
        if (data.in_file()) {
            in_files_ = std::min(in_files_, last_);
            add({nullptr, data.length}, data.file);
        } else {
            add({data.memory.data(), data.memory.size()}, {});
        }
    }

    /// The memory to be sent next, up to the first part of a file: an Asio ConstBufferSequence.
    [[nodiscard]] std::span<const boost::asio::const_buffer> pieces() const noexcept
    {
        return {pieces_.data() + first_, std::min(in_files_, last_) - first_};
    }
    /// The part of a file to be sent next. Requires that `pieces()` is empty and the outbox is not.
    [[nodiscard]] lent_data file() const noexcept
    {
        return {files_[first_], pieces_[first_].size()};
    }
    /// A part of a file follows `pieces()`.
    [[nodiscard]] bool file_follows() const noexcept { return in_files_ < last_; }

    /// Drops everything that is not sent.
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

    /// Skips empty pieces and releases the memory when none is left.
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
    std::size_t in_files_ =
        max_pieces;  ///< index of the first piece that is a part of a file; max_pieces if none is
    bool own_piece_open_ = false;
};

}  // namespace nbd::session
