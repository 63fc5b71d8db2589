// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/protocol/request.hpp>
#include <nbd/transmission/plan.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <system_error>
#include <utility>

namespace nbd::transmission {

/// The calls of a READ: one, or where holes shall be left out, the question for them and then one for
/// each piece of data. Used again and again, it keeps its memory.
template <class B>
class read_plan {
public:
    /// Pieces that holes can cut a READ into.
    static constexpr std::size_t most_extents = 24;

    void begin(const protocol::request& r, bool sparse)
    {
        range_ = r;
        at_ = r.offset;
        result_ = {};
        piece_ = 0;
        // Who takes requests whole gets them whole.
        asking_ = has_extents<B> && !has_handle<B> && sparse;
        pieces_.begin(r.length, asking_ ? most_extents : 1);
        if (!asking_)
            pieces_.add(r.length, 0);
        skip_zeroes();
    }

    [[nodiscard]] std::optional<step> next() const noexcept
    {
        if (asking_)
            return step{.what = step::member::extents, .offset = at_, .length = range_.length};
        if (at_ == range_.offset + range_.length)
            return std::nullopt;
        if constexpr (has_handle<B>)
            return step{.what = step::member::handle, .offset = at_, .length = range_.length};
        return step{.what = step::member::read, .offset = at_, .length = piece_end() - at_};
    }
    /// Where the question for holes is answered.
    [[nodiscard]] extent_list& list() noexcept { return pieces_; }

    void take(failure failed)
    {
        if (std::exchange(asking_, false)) {
            // Extents only save work here: what they do not tell is read.
            if (failed)
                pieces_.begin(range_.length, most_extents);
            skip_zeroes();
            return;
        }
        if (failed) {
            if (!failed.offset && pieces_.extents().size() > 1)
                failed.offset = at_;
            result_ = std::move(failed);
            at_ = range_.offset + range_.length;
            return;
        }
        at_ = piece_end();
        ++piece_;
        skip_zeroes();
    }

    /// When there is no next.
    [[nodiscard]] const failure& result() const noexcept { return result_; }
    /// What there is from the request's start on; what they do not cover is data.
    [[nodiscard]] std::span<const extent> pieces() const noexcept { return pieces_.extents(); }
    [[nodiscard]] bool has_holes() const noexcept
    {
        for (const auto& e : pieces())
            if (zero(e))
                return true;
        return false;
    }
    [[nodiscard]] static bool zero(const extent& e) noexcept
    {
        return (e.flags & protocol::state_flag::zero) != 0;
    }

private:
    /// Of the piece that `at_` begins.
    [[nodiscard]] std::uint64_t piece_end() const noexcept
    {
        return piece_ < pieces().size() ? at_ + pieces()[piece_].length
                                        : range_.offset + range_.length;
    }
    void skip_zeroes() noexcept
    {
        while (!asking_ && piece_ < pieces().size() && zero(pieces()[piece_]))
            at_ += pieces()[piece_++].length;
    }

    protocol::request range_;
    std::uint64_t at_ = 0;
    std::size_t piece_ = 0;
    bool asking_ = false;
    extent_list pieces_;
    failure result_;
};

}  // namespace nbd::transmission
