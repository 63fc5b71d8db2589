// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/handshake/agreement.hpp>
#include <nbd/session/replies.hpp>
#include <nbd/transmission/admission.hpp>
#include <nbd/transmission/block_status.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace nbd::session {

/// Answers BLOCK_STATUS: one chunk for each context that was selected, or that the request's payload
/// names (points 56 and 66).
template <class Opened, class Observer>
class status_answer {
public:
    status_answer(Opened& disk, const handshake::agreement& agreed, replies<Observer>& answers)
        : disk_{disk}, agreed_{agreed}, to_{answers}
    {
    }

    /// The answer is lent to the outbox, and must be sent before another is made.
    void answer(const protocol::request& r, const protocol::export_terms& terms,
                std::span<const std::byte> payload, std::size_t most_extents)
    {
        auto contexts = agreed_.contexts;
        auto range = r;
        if (r.has(protocol::command_flag::payload_len)) {
            const auto asked = transmission::decode_status_payload(payload);
            if (!asked || !choose(contexts, asked->ids)) {
                to_.error(r, protocol::error_value::einval,
                          "the payload names contexts that were not selected, or not each once");
                return;
            }
            range.length = asked->length;
            range.flags &= static_cast<std::uint16_t>(~protocol::command_flag::payload_len);
            if (const auto refused = transmission::admit(range, terms);
                refused != protocol::error_value::none) {
                to_.error(r, refused, transmission::explain(refused));
                return;
            }
        }
        const bool one = r.has(protocol::command_flag::req_one);
        reply_.clear();
        for (const auto& context : contexts) {
            if (const auto failed =
                    add(range, terms, context, one ? 1 : std::max<std::size_t>(most_extents, 1),
                        &context == &contexts.back())) {
                to_.fail(r, failed);
                return;
            }
        }
        to_.out().lend(reply_);
    }

private:
    /// Leaves those that `ids` (sorted) names; false where it names another, or none.
    [[nodiscard]] static bool choose(std::vector<handshake::selected_context>& from,
                                     std::span<const std::uint32_t> ids)
    {
        std::erase_if(from, [&](const auto& context) {
            return !std::binary_search(ids.begin(), ids.end(), context.id);
        });
        return from.size() == ids.size() && !ids.empty();
    }

    /// Appends one context's chunk.
    [[nodiscard]] failure add(const protocol::request& r, const protocol::export_terms& terms,
                              const handshake::selected_context& context, std::size_t most,
                              bool last)
    {
        list_.begin(r.length, most);
        {
            [[maybe_unused]] const auto lock = disk_.lock();
            if (auto failed =
                    transmission::status(disk_.backend(), context.index, r.offset, r.length, list_))
                return failed;
        }
        std::vector<extent> extents{list_.extents().begin(), list_.extents().end()};
        if (terms.blocks.minimum > 1)
            transmission::align(extents, terms.blocks.minimum,
                                disk_.info().contexts[context.index].name
                                    == protocol::base_allocation.name);

        const auto style = to_.style();
        const auto header = protocol::chunk_bytes(style);
        const bool wide = style == protocol::reply_style::extended;
        const auto at = reply_.size();
        reply_.resize(at + header + (wide ? 8 : 4));
        transmission::append_descriptors(reply_, extents, style);
        to_.chunk(std::span{reply_}.subspan(at), r,
                  wide ? protocol::chunk::block_status_ext : protocol::chunk::block_status,
                  reply_.size() - at - header, last);
        protocol::writer payload{std::span{reply_}.subspan(at + header)};
        payload.put(context.id);
        if (wide)
            payload.put(static_cast<std::uint32_t>(extents.size()));
        return {};
    }

    Opened& disk_;
    const handshake::agreement& agreed_;
    replies<Observer>& to_;
    extent_list list_;
    std::vector<std::byte> reply_;
};

}  // namespace nbd::session
