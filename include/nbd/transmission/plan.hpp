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

/// A plan translates an admitted request into calls of the backend, one after the other. It names
/// the calls and does not make them, so the same plan serves backends that are called and backends
/// that are awaited. It emulates what the backend lacks: FUA by a flush, WRITE_ZEROES by writes of
/// zeroes.
namespace nbd::transmission {

/// One call of a member of the backend.
struct backend_call {
    enum class member {
        read,
        write,
        write_block,  ///< a write from zero_block
        flush,
        trim,
        write_zeroes,
        cache,
        extents,  ///< of context `index` of contexts_of
        handle,   ///< the whole request
    };
    member what{};
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    bool fua = false;  ///< native FUA, where the backend's write takes it
    zero_flags zero{};
    std::size_t index = 0;
    bool partial = false;  ///< one of several for a long request, which can be abandoned before it
};

/// The longest write in bytes that a plan generates.
[[nodiscard]] constexpr std::uint32_t largest_write(const protocol::export_terms& t) noexcept
{
    return t.blocks.maximum - t.blocks.maximum % t.blocks.minimum;
}

/// Zeroes to write from. Zero-initialised, so the program file does not grow.
alignas(4096) inline std::array<std::byte, std::size_t{64} << 10> zero_block{};
/// Bytes of zeroes that are written before other requests may use the thread.
inline constexpr std::uint64_t zeroes_at_a_time = std::uint64_t{8} << 20;
/// Bytes that one call of trim, write_zeroes or cache covers at most. A longer request is divided
/// into calls that end at multiples of this number, because a request can be interrupted between
/// two calls and not during one.
inline constexpr std::uint64_t longest_call = std::uint64_t{256} << 20;

/// The calls of a request whose reply has no data: all commands except READ, BLOCK_STATUS, RESIZE
/// and DISC. Call `next`, make that call and pass its outcome to `completed`, until there is no
/// next call.
template <class B>
class plan {
public:
    /// `largest_write`: the longest write in bytes that the plan may generate.
    plan(const protocol::request& r, std::uint64_t largest_write) noexcept
        : command_{r.command}, at_{r.offset}, left_{r.length},
          piece_{std::min<std::uint64_t>(zero_block.size(), largest_write)},
          fua_{r.has(protocol::command_flag::fua)},
          zero_{.no_hole = r.has(protocol::command_flag::no_hole),
                .fast = r.has(protocol::command_flag::fast_zero)}
    {
        using protocol::command;
        if constexpr (!has_handle<B>)
            is_divided_ = left_ > longest_call
                && (command_ == command::trim || command_ == command::write_zeroes
                    || command_ == command::cache);
        // A request of length 0 succeeds without a call (point 68). TRIM is advice: a TRIM with FUA
        // is ignored if it cannot be made durable.
        if ((left_ == 0 && command_ != command::flush)
            || (!has_handle<B> && command_ == command::trim && fua_ && !has_flush<B>))
            now_ = phase::over;
        // Without a flush, only a write with native FUA makes zeroes durable.
        else if (!has_handle<B> && command_ == command::write_zeroes
                 && !(has_write_zeroes<B> && (has_flush<B> || !fua_)))
            write_blocks();
    }

    /// The rest of a WRITE whose payload was received in place: with FUA a flush, otherwise
    /// nothing.
    [[nodiscard]] static plan of_written(const protocol::request& r) noexcept
    {
        plan rest{r, 0};
        rest.now_ = has_flush<B> && rest.fua_ ? phase::flush : phase::over;
        return rest;
    }

    [[nodiscard]] std::optional<backend_call> next() const noexcept
    {
        switch (now_) {
        case phase::whole:
            return backend_call{.what = member(),
                                .offset = at_,
                                .length = whole_length(),
                                .fua = fua_ && command_ == protocol::command::write,
                                .zero = zero_,
                                .partial = is_divided_};
        case phase::blocks:
            // Native FUA covers one block; a flush at the end covers all of them.
            return backend_call{.what = backend_call::member::write_block,
                                .offset = at_,
                                .length = std::min(left_, piece_),
                                .fua = fua_,
                                .partial = true};
        case phase::flush:
            return backend_call{.what = backend_call::member::flush};
        default:
            return std::nullopt;
        }
    }

    /// Reports the outcome of the call that `next` named.
    void completed(failure&& outcome) noexcept
    {
        if (now_ == phase::whole && command_ == protocol::command::write_zeroes && !has_handle<B>
            && (outcome == std::errc::not_supported
                || outcome == std::errc::operation_not_supported)) {
            // "WRITE_ZEROES": only FAST_ZERO may be answered with ENOTSUP, so the zeroes are
            // written instead.
            write_blocks();
            return;
        }
        if (outcome) {
            result_ = std::move(outcome);
            now_ = phase::over;
            return;
        }
        if (now_ != phase::flush) {
            const auto done = now_ == phase::blocks ? std::min(left_, piece_) : whole_length();
            at_ += done;
            left_ -= done;
            // A range that was changed in part must not end with ENOTSUP ("WRITE_ZEROES",
            // FAST_ZERO).
            zero_.fast = false;
            if (left_ != 0)
                return;
        }
        const bool durable = command_ == protocol::command::flush || has_handle<B>
            || (has_fua_write<B>
                && (command_ == protocol::command::write || now_ == phase::blocks));
        now_ =
            now_ != phase::flush && fua_ && !durable && has_flush<B> ? phase::flush : phase::over;
    }

    /// Valid when there is no next call.
    [[nodiscard]] const failure& result() const noexcept { return result_; }

private:
    enum class phase { whole, blocks, flush, over };

    /// The length in bytes of the next call, unless it writes a block of zeroes.
    [[nodiscard]] std::uint64_t whole_length() const noexcept
    {
        return is_divided_ ? std::min(left_, longest_call - at_ % longest_call) : left_;
    }

    void write_blocks() noexcept
    {
        now_ = phase::blocks;
        if (zero_.fast) {
            result_ = std::make_error_code(std::errc::not_supported);
            now_ = phase::over;
        }
    }

    [[nodiscard]] backend_call::member member() const noexcept
    {
        using protocol::command;
        if constexpr (has_handle<B>)
            return backend_call::member::handle;
        switch (command_) {
        case command::write:
            return backend_call::member::write;
        case command::trim:
            return backend_call::member::trim;
        case command::cache:
            return backend_call::member::cache;
        case command::write_zeroes:
            return backend_call::member::write_zeroes;
        default:
            return backend_call::member::flush;
        }
    }

    protocol::command command_;
    std::uint64_t at_;
    std::uint64_t left_;
    std::uint64_t piece_;
    bool fua_;
    bool is_divided_ = false;  ///< into calls of at most longest_call bytes
    zero_flags zero_;
    phase now_ = phase::whole;
    failure result_;
};

}  // namespace nbd::transmission
