// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/protocol/request.hpp>
#include <nbd/protocol/terms.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <system_error>

/// A request that was admitted becomes calls of the backend, one after the other. Which ones is decided
/// here, without making them, so that they can be called or awaited. What the backend lacks is made
/// up for: FUA as a flush, WRITE_ZEROES as writes of zeroes.
namespace nbd::transmission {

/// One call of a member of the backend.
struct step {
    enum class member {
        read,
        write,
        write_block,  ///< a write from zero_block
        flush,
        trim,
        write_zeroes,
        cache,
        extents,  ///< of context `index` of contexts_of
        handle,   ///< the whole request, for a backend that takes it so
    };
    member what{};
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    bool fua = false;  ///< natively, where the backend's write takes it
    zero_flags zero{};
    std::size_t index = 0;
    bool partial = false;  ///< one of many of a long request, which can be given up before it
};

/// No write that is made up here is longer.
[[nodiscard]] constexpr std::uint32_t largest_write(const protocol::export_terms& t) noexcept
{
    return t.blocks.maximum - t.blocks.maximum % t.blocks.minimum;
}

/// Zeroes to write from, in the part of the program that takes no room in its file.
alignas(4096) inline std::array<std::byte, std::size_t{64} << 10> zero_block{};
/// Bytes of zeroes that are written before others have their turn.
inline constexpr std::uint64_t zeroes_at_a_time = std::uint64_t{8} << 20;
/// Bytes that one call of trim, write_zeroes or cache covers at most. A longer request becomes many
/// calls, each of which ends at a multiple of this: a call cannot be interrupted, a request can.
inline constexpr std::uint64_t longest_call = std::uint64_t{256} << 20;

/// The calls of a request whose reply has no data: everything but READ, BLOCK_STATUS and DISC. Ask
/// `next`, make that call, tell its outcome to `take`, until there is no next.
template <class B>
class plan {
public:
    /// No write that is made up here is longer than `largest_write` bytes.
    plan(const protocol::request& r, std::uint64_t largest_write) noexcept
        : command_{r.command}, at_{r.offset}, left_{r.length},
          piece_{std::min<std::uint64_t>(zero_block.size(), largest_write)},
          fua_{r.has(protocol::command_flag::fua)},
          zero_{.no_hole = r.has(protocol::command_flag::no_hole),
                .fast = r.has(protocol::command_flag::fast_zero)}
    {
        using protocol::command;
        if constexpr (!has_handle<B>)
            is_cut_ = left_ > longest_call
                && (command_ == command::trim || command_ == command::write_zeroes
                    || command_ == command::cache);
        // A request of no length has nothing to do, and succeeds without the backend (point 68).
        // "TRIM" is advice, and one that could not be made durable is not taken.
        if ((left_ == 0 && command_ != command::flush)
            || (!has_handle<B> && command_ == command::trim && fua_ && !has_flush<B>))
            now_ = phase::over;
        // Without a flush, durable zeroes can only be written with the write's own FUA.
        else if (!has_handle<B> && command_ == command::write_zeroes
                 && !(has_write_zeroes<B> && (has_flush<B> || !fua_)))
            write_blocks();
    }

    [[nodiscard]] std::optional<step> next() const noexcept
    {
        switch (now_) {
        case phase::whole:
            return step{.what = member(),
                        .offset = at_,
                        .length = whole_length(),
                        .fua = fua_ && command_ == protocol::command::write,
                        .zero = zero_,
                        .partial = is_cut_};
        case phase::blocks:
            // Native FUA covers its own piece alone; a flush covers what was written before it.
            return step{.what = step::member::write_block,
                        .offset = at_,
                        .length = std::min(left_, piece_),
                        .fua = fua_,
                        .partial = true};
        case phase::flush:
            return step{.what = step::member::flush};
        default:
            return std::nullopt;
        }
    }

    void take(failure failed)
    {
        if (now_ == phase::whole && command_ == protocol::command::write_zeroes && !has_handle<B>
            && (failed == std::errc::not_supported
                || failed == std::errc::operation_not_supported)) {
            // "WRITE_ZEROES": ENOTSUP is for FAST_ZERO alone. A backend that cannot do it now gets
            // its zeroes written.
            write_blocks();
            return;
        }
        if (failed) {
            result_ = std::move(failed);
            now_ = phase::over;
            return;
        }
        if (now_ != phase::flush) {
            const auto done = now_ == phase::blocks ? std::min(left_, piece_) : whole_length();
            at_ += done;
            left_ -= done;
            // What has begun to change must not end with ENOTSUP ("WRITE_ZEROES", FAST_ZERO).
            zero_.fast = false;
            if (left_ != 0)
                return;
        }
        const bool by_itself = command_ == protocol::command::flush || has_handle<B>
            || (has_fua_write<B>
                && (command_ == protocol::command::write || now_ == phase::blocks));
        now_ =
            now_ != phase::flush && fua_ && !by_itself && has_flush<B> ? phase::flush : phase::over;
    }

    /// When there is no next.
    [[nodiscard]] const failure& result() const noexcept { return result_; }

private:
    enum class phase { whole, blocks, flush, over };

    /// Bytes of the next call where it is not one of blocks.
    [[nodiscard]] std::uint64_t whole_length() const noexcept
    {
        return is_cut_ ? std::min(left_, longest_call - at_ % longest_call) : left_;
    }

    void write_blocks()
    {
        now_ = phase::blocks;
        if (zero_.fast) {
            result_ = std::make_error_code(std::errc::not_supported);
            now_ = phase::over;
        }
    }

    [[nodiscard]] step::member member() const noexcept
    {
        using protocol::command;
        if constexpr (has_handle<B>)
            return step::member::handle;
        switch (command_) {
        case command::write:
            return step::member::write;
        case command::trim:
            return step::member::trim;
        case command::cache:
            return step::member::cache;
        case command::write_zeroes:
            return step::member::write_zeroes;
        default:
            return step::member::flush;
        }
    }

    protocol::command command_;
    std::uint64_t at_;
    std::uint64_t left_;
    std::uint64_t piece_;
    bool fua_;
    bool is_cut_ = false;  ///< into calls that are not longer than longest_call
    zero_flags zero_;
    phase now_ = phase::whole;
    failure result_;
};

}  // namespace nbd::transmission
