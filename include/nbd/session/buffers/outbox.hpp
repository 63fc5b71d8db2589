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
#include <memory>
#include <span>
#include <stdexcept>
#include <utility>

namespace nbd::session {

/// Data to be sent that the outbox does not own: memory, a part of a file, or the content of a
/// pipe.
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

/// Replies to be sent, gathered for one send: bytes that it owns, and data that were lent. It takes
/// memory by need, each block twice as large as the one before, and releases it when everything is
/// sent.
/// Thread safety: distinct objects: safe. Shared objects: unsafe.
class outbox {
public:
    /// Memory, or a part of a file that is as long.
    struct piece : boost::asio::const_buffer {
        file_range file{};
    };

    /// As many as one sendmsg(2) sends (IOV_MAX).
    static constexpr std::size_t max_pieces = 1024;

    /// `capacity` bytes can be owned at a time.
    explicit outbox(std::size_t capacity) noexcept : capacity_{capacity} {}
    outbox(const outbox&) = delete;
    outbox& operator=(const outbox&) = delete;

    [[nodiscard]] bool empty() const noexcept { return first_ == last_; }
    [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }

    /// Bytes added since it was empty, lent ones too.
    [[nodiscard]] std::uint64_t gathered() const noexcept { return gathered_; }

    /// Whether `own` owned bytes and `lent` lent pieces can be added.
    [[nodiscard]] bool fits(std::size_t own, std::size_t lent) const noexcept
    {
        return own <= capacity_ - used_ && last_ + lent + 1 <= max_pieces;
    }

    /// Takes the memory for one more reply, so that no call for it throws. Requires
    /// fits(own, lent). Errors: std::bad_alloc.
    void reserve(std::size_t own, std::size_t lent)
    {
        if (own > bytes_.size() - filled_)
            grow(own);
        reserve_pieces(last_ + 2 * lent + 1);
    }

    /// Appends `n` owned bytes and returns them, to be filled before the next send. Errors:
    /// std::length_error unless fits(n, 0); std::bad_alloc.
    [[nodiscard]] std::span<std::byte> append(std::size_t n)
    {
        if (!fits(n, 0)) [[unlikely]]
            throw std::length_error{"nbd: the outbox has no room for this reply"};
        if (n > bytes_.size() - filled_)
            grow(n);
        const std::span<std::byte> room{bytes_.data() + filled_, n};
        if (own_piece_open_) {
            auto& last = pieces_[last_ - 1];
            resize(last, last.size() + n);
        } else {
            add({{room.data(), n}, {}});
            own_piece_open_ = true;
        }
        filled_ += n;
        used_ += n;
        gathered_ += n;
        return room;
    }

    /// Removes the last `n` bytes of the last append.
    void retract(std::size_t n) noexcept
    {
        auto& last = pieces_[last_ - 1];
        assert(own_piece_open_ && n <= last.size());
        resize(last, last.size() - n);
        filled_ -= n;
        used_ -= n;
        gathered_ -= n;
        if (last.size() == 0) {
            --last_;
            own_piece_open_ = false;
        }
    }

    /// Appends lent data. Errors: std::length_error unless fits(0, 1); std::bad_alloc.
    void lend(const lent_data& data)
    {
        if (last_ == max_pieces) [[unlikely]]
            throw std::length_error{"nbd: the outbox has no room for this reply"};
        if (data.in_file()) {
            add({{nullptr, data.length}, data.file});
            in_files_ = std::min(in_files_, last_ - 1);
        } else {
            add({{data.memory.data(), data.memory.size()}, {}});
        }
        own_piece_open_ = false;
        gathered_ += data.length;
    }

    /// The memory to be sent next, up to the first part of a file: an Asio ConstBufferSequence.
    [[nodiscard]] std::span<const piece> pieces() const noexcept
    {
        return {pieces_ + first_, std::min(in_files_, last_) - first_};
    }
    /// The part of a file to be sent next. Requires that `pieces()` is empty and the outbox is not.
    [[nodiscard]] lent_data file() const noexcept
    {
        return {pieces_[first_].file, pieces_[first_].size()};
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
            auto& next = pieces_[first_];
            const auto part = std::min(n, next.size());
            if (next.file.file >= 0) {
                next.file = lent_data::behind(next.file, part);
                resize(next, next.size() - part);
            } else {
                static_cast<boost::asio::const_buffer&>(next) += part;
            }
            n -= part;
            if (next.size() != 0)
                return;
            ++first_;
        }
        settle();
    }

private:
    static constexpr std::size_t few = 8;
    static constexpr std::size_t most_blocks = 8;

    static void resize(piece& p, std::size_t n) noexcept
    {
        static_cast<boost::asio::const_buffer&>(p) = {p.data(), n};
    }

    /// A new block for at least `n` bytes. What the last one has left is not used. The last that
    /// there may be has room for all bytes that can follow.
    void grow(std::size_t n)
    {
        const auto rest = capacity_ - used_;
        const bool last = older_count_ + 1 == older_.size();
        block next{std::max(n, last ? rest : std::min(rest, 2 * bytes_.size()))};
        if (bytes_.size() != 0)
            older_[older_count_++] = std::move(bytes_);
        bytes_ = std::move(next);
        filled_ = 0;
        own_piece_open_ = false;
    }

    void add(const piece& next)
    {
        if (last_ == room_)
            reserve_pieces(last_ + 1);
        std::construct_at(pieces_ + last_, next);
        ++last_;
    }
    /// Makes room for `n` pieces. A block of the stock, so that no memory is allocated in steady
    /// state.
    void reserve_pieces(std::size_t n)
    {
        n = std::min(n, max_pieces);
        if (n <= room_)
            return;
        block larger{std::max(n, 2 * room_) * sizeof(piece)};
        auto* const to = reinterpret_cast<piece*>(larger.data());
        std::uninitialized_copy(pieces_, pieces_ + last_, to);
        pieces_ = to;
        room_ = larger.size() / sizeof(piece);
        many_ = std::move(larger);
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
            filled_ = 0;
            bytes_ = {};
            while (older_count_ != 0)
                older_[--older_count_] = {};
            many_ = {};
            pieces_ = few_.data();
            room_ = few;
            return;
        }
        if (in_files_ < first_)
            in_files_ = static_cast<std::size_t>(
                std::find_if(pieces_ + first_, pieces_ + last_,
                             [](const piece& p) { return p.file.file >= 0; })
                - pieces_);
        if (in_files_ >= last_)
            in_files_ = max_pieces;
    }

    block bytes_;
    std::array<block, most_blocks - 1> older_{};  ///< full, and not sent yet
    std::size_t older_count_ = 0;
    std::size_t capacity_;
    std::size_t used_ = 0;    ///< owned bytes
    std::size_t filled_ = 0;  ///< of `bytes_`
    std::uint64_t gathered_ = 0;
    std::array<piece, few> few_{};
    block many_;  ///< pieces, where there are more than a few
    piece* pieces_ = few_.data();
    std::size_t room_ = few;  ///< pieces that fit
    std::size_t first_ = 0;
    std::size_t last_ = 0;
    /// Index of the first piece that is a part of a file; max_pieces if none is.
    std::size_t in_files_ = max_pieces;
    bool own_piece_open_ = false;
};

}  // namespace nbd::session
