// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/protocol/request.hpp>
#include <nbd/transmission/plan.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <system_error>
#include <utility>

namespace nbd::transmission {

/// The calls of a READ: one `read`; or, if holes are left out, one `extents` and a `read` for each
/// piece of data. The object is reused for the next READ and keeps its memory.
template <class B>
class read_plan {
public:
    /// The largest number of pieces into which holes divide a READ.
    static constexpr std::size_t most_extents = 24;

    /// Begins a READ. `sparse`: leave holes out, if the backend reports extents. `block`: the
    /// export's minimum block size, to which each call keeps.
    void begin(const protocol::request& r, bool sparse, std::uint64_t block = 1) noexcept
    {
        range_ = r;
        block_ = block;
        at_ = r.offset;
        if (result_)
            result_ = {};
        piece_ = 0;
        // A backend with `handle` answers a READ in one call.
        asking_ = has_extents<B> && !has_handle<B> && sparse;
        pieces_.begin(r.length, most_extents);
    }
    /// Whether the next call is `extents`.
    [[nodiscard]] bool asking() const noexcept { return asking_; }

    [[nodiscard]] std::optional<backend_call> next() const noexcept
    {
        if (asking_)
            return backend_call{
                .what = backend_call::member::extents, .offset = at_, .length = range_.length};
        if (at_ == range_.offset + range_.length)
            return std::nullopt;
        if constexpr (has_handle<B>)
            return backend_call{
                .what = backend_call::member::handle, .offset = at_, .length = range_.length};
        return backend_call{
            .what = backend_call::member::read, .offset = at_, .length = piece_end() - at_};
    }
    /// The list that the `extents` call fills.
    [[nodiscard]] extent_list& list() noexcept { return pieces_; }

    /// Reports the outcome of the call that `next` named.
    void completed(failure&& outcome) noexcept
    {
        if (std::exchange(asking_, false)) {
            // Extents are an optimisation here: bytes that they do not cover are read, and all
            // bytes where they divide a block.
            if (outcome || !whole_blocks())
                pieces_.begin(range_.length, most_extents);
            skip_zeroes();
            return;
        }
        if (outcome) {
            if (!outcome.offset && pieces_.extents().size() > 1)
                outcome.offset = at_;
            result_ = std::move(outcome);
            at_ = range_.offset + range_.length;
            return;
        }
        at_ = piece_end();
        ++piece_;
        skip_zeroes();
    }

    /// Valid when there is no next call.
    [[nodiscard]] const failure& result() const noexcept { return result_; }
    /// The pieces, from the start of the request. Bytes that they do not cover are data.
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
    /// The end of the piece that begins at `at_`.
    [[nodiscard]] std::uint64_t piece_end() const noexcept
    {
        return piece_ < pieces().size() ? at_ + pieces()[piece_].length
                                        : range_.offset + range_.length;
    }
    [[nodiscard]] bool whole_blocks() const noexcept
    {
        return std::all_of(pieces().begin(), pieces().end(),
                           [this](const extent& e) { return e.length % block_ == 0; });
    }
    void skip_zeroes() noexcept
    {
        while (!asking_ && piece_ < pieces().size() && zero(pieces()[piece_]))
            at_ += pieces()[piece_++].length;
    }

    protocol::request range_;
    std::uint64_t at_ = 0;
    std::uint64_t block_ = 1;
    std::size_t piece_ = 0;
    bool asking_ = false;  ///< the extents are the next call
    extent_list pieces_;
    failure result_;
};

}  // namespace nbd::transmission
