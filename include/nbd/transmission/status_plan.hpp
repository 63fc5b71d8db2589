// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/chunk.hpp>
#include <nbd/protocol/meta_context.hpp>
#include <nbd/protocol/terms.hpp>
#include <nbd/transmission/admission.hpp>
#include <nbd/transmission/block_status.hpp>
#include <nbd/transmission/plan.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

namespace nbd::transmission {

/// The calls of a BLOCK_STATUS, and its reply: one chunk for each context that was selected, or
/// that the payload of the request names (points 56 and 66). The object is reused for the next
/// BLOCK_STATUS and keeps its memory.
template <class B>
class status_plan {
public:
    /// Why a request with a good header is refused.
    struct refusal {
        protocol::error_value value{};
        std::string_view text;
    };

    /// Begins an admitted request. `most_extents`: the largest number of descriptors in one chunk.
    /// *Returns* the refusal of a request with a wrong payload, which has no calls. *Errors*:
    /// std::bad_alloc.
    [[nodiscard]] std::optional<refusal>
    begin(const protocol::request& r, const protocol::export_terms& terms,
          std::span<const protocol::selected_context> selected, protocol::reply_style style,
          std::span<const std::byte> payload, std::size_t most_extents)
    {
        contexts_.assign(selected.begin(), selected.end());
        range_ = r;
        style_ = style;
        block_ = terms.blocks.minimum;
        // "Structured reply types": a chunk is not longer than the maximum payload (point 56).
        const std::size_t fitting =
            std::min(terms.blocks.maximum, protocol::default_maximum_payload)
            / descriptor_bytes(style);
        most_ = r.has(protocol::command_flag::req_one)
            ? 1
            : std::max<std::size_t>(std::min(most_extents, fitting), 1);
        current_ = 0;
        reply_.clear();
        result_ = {};
        if (r.has(protocol::command_flag::payload_len)) {
            const auto asked = decode_status_payload(payload);
            if (!asked || !choose(asked->ids)) {
                contexts_.clear();
                return refusal{
                    protocol::error_value::einval,
                    "the payload is malformed, or it names no context, one twice, or one "
                    "that was not selected"};
            }
            range_.length = asked->length;
            range_.flags &= static_cast<std::uint16_t>(~protocol::command_flag::payload_len);
            if (const auto why = admit(range_, terms); why != protocol::error_value::none) {
                contexts_.clear();
                return refusal{why, explain(why)};
            }
        }
        list_.begin(range_.length, most_);
        return std::nullopt;
    }

    [[nodiscard]] std::optional<backend_call> next() const noexcept
    {
        if (current_ == contexts_.size())
            return std::nullopt;
        return backend_call{.what = backend_call::member::extents,
                            .offset = range_.offset,
                            .length = range_.length,
                            .index = contexts_[current_].index};
    }
    /// The list that the call fills.
    [[nodiscard]] extent_list& list() noexcept { return list_; }

    /// Reports the outcome of the call that `next` named. *Errors*: std::bad_alloc.
    void completed(failure&& outcome)
    {
        if (!outcome && list_.empty())
            outcome = {std::make_error_code(std::errc::io_error),
                       "the backend reported no extents"};
        if (outcome) {
            result_ = std::move(outcome);
            contexts_.clear();
            current_ = 0;
            return;
        }
        append_chunk();
        ++current_;
        list_.begin(range_.length, most_);
    }

    /// Discards the reply and frees its memory, except `kept_bytes`.
    void give_back() noexcept
    {
        if (reply_.capacity() > kept_bytes)
            reply_ = std::vector<std::byte>{};  // `= {}` keeps the memory
        std::ignore = keep_reply();
    }
    /// Frees all memory except the reply's and `kept_bytes`. *Returns* the bytes of the reply.
    [[nodiscard]] std::size_t keep_reply() noexcept
    {
        if (extents_.capacity() > kept_bytes / sizeof(extent))
            extents_ = std::vector<extent>{};
        list_.give_back(kept_bytes / sizeof(extent));
        return reply_.capacity() > kept_bytes ? reply_.capacity() : 0;
    }
    /// *Returns* the largest number of bytes that a request allocates beyond `kept_bytes`; zero for
    /// few extents. `most_extents`: the largest number of descriptors in one chunk.
    [[nodiscard]] static std::size_t most_bytes(const protocol::request& r, std::size_t contexts,
                                                protocol::reply_style style,
                                                std::size_t most_extents) noexcept
    {
        const bool payload = r.has(protocol::command_flag::payload_len);
        if (r.has(protocol::command_flag::req_one) || most_extents * sizeof(extent) <= kept_bytes)
            return 0;
        const auto most = payload ? most_extents : std::min<std::uint64_t>(most_extents, r.length);
        // An extent has 16 bytes. The peak is four extents for each descriptor: the backend's list
        // while it grows and the copy of the previous context's list; or that copy and its version
        // rounded to blocks, which can have twice as many extents, while it grows. The reply is
        // allocated exactly, and again for each further context.
        const auto copies_of_reply = contexts < 2 ? 1 : 2 * contexts;
        return static_cast<std::size_t>(64 * std::bit_ceil(most)
                                        + copies_of_reply * descriptor_bytes(style) * most)
            + contexts * 64;
    }
    /// *Returns* the largest number of descriptors in one chunk, up to `most_extents`, for which
    /// `memory` bytes are enough.
    [[nodiscard]] static std::size_t fitting_extents(std::size_t contexts,
                                                     protocol::reply_style style,
                                                     std::size_t most_extents,
                                                     std::size_t memory) noexcept
    {
        const protocol::request longest{.length = std::uint64_t(-1)};
        most_extents = std::clamp<std::size_t>(most_extents, 1, std::size_t{1} << 20);
        while (most_extents > 1 && most_bytes(longest, contexts, style, most_extents) > memory)
            most_extents /= 2;
        return most_extents;
    }

    /// Valid when there is no next call.
    [[nodiscard]] const failure& result() const noexcept { return result_; }
    /// The whole reply, if the result is success. Valid until the next `begin`.
    [[nodiscard]] std::span<const std::byte> reply() const noexcept { return reply_; }

private:
    static constexpr std::size_t kept_bytes = std::size_t{1} << 10;

    /// Keeps the contexts that `ids` (sorted) names. *Returns* false if it names none, or one that
    /// was not selected.
    [[nodiscard]] bool choose(std::span<const std::uint32_t> ids)
    {
        std::erase_if(contexts_, [&](const auto& context) {
            return !std::binary_search(ids.begin(), ids.end(), context.id);
        });
        return contexts_.size() == ids.size() && !ids.empty();
    }

    void append_chunk()
    {
        extents_.assign(list_.extents().begin(), list_.extents().end());
        list_.give_back(kept_bytes / sizeof(extent));
        const auto& context = contexts_[current_];
        if (block_ > 1)
            align(extents_, block_, has_extents<B> && context.index == 0);
        extents_.resize(std::min(extents_.size(), most_));  // aligning may add extents

        const auto header = protocol::chunk_bytes(style_);
        const bool wide = style_ == protocol::reply_style::extended;
        const auto at = reply_.size();
        reply_.reserve(at + header + 8 + extents_.size() * descriptor_bytes(style_));
        reply_.resize(at + header + (wide ? 8 : 4));
        append_descriptors(reply_, extents_, style_);
        const bool last = current_ + 1 == contexts_.size();
        protocol::encode_chunk(
            std::span{reply_}.subspan(at), style_,
            {.flags = last ? protocol::reply_flag::done : std::uint16_t{0},
             .type = wide ? protocol::chunk::block_status_ext : protocol::chunk::block_status,
             .cookie = range_.cookie,
             .offset = range_.offset,
             .length = reply_.size() - at - header});
        protocol::writer payload{std::span{reply_}.subspan(at + header)};
        payload.put(context.id);
        if (wide)
            payload.put(static_cast<std::uint32_t>(extents_.size()));
    }

    std::vector<protocol::selected_context> contexts_;
    protocol::request range_;
    protocol::reply_style style_{};
    std::uint32_t block_ = 1;
    std::size_t most_ = 0;
    std::size_t current_ = 0;
    extent_list list_;
    std::vector<extent> extents_;
    std::vector<std::byte> reply_;
    failure result_;
};

}  // namespace nbd::transmission
