// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/protocol/chunk.hpp>
#include <nbd/protocol/request.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

/// BLOCK_STATUS: turns the extents of a backend into valid descriptors, whatever the backend
/// reported.
namespace nbd::transmission {

/// *Returns* the meta contexts of a backend: base:allocation first, if it has extents; then its
/// own.
template <class B>
[[nodiscard]] std::vector<protocol::meta_context> contexts_of(const B& backend)
{
    std::vector<protocol::meta_context> all;
    if constexpr (has_extents<B>)
        all.push_back(protocol::base_allocation);
    if constexpr (has_meta_contexts<B>) {
        const std::span<const meta_context> own = backend.meta_contexts();
        all.insert(all.end(), own.begin(), own.end());
    }
    return all;
}

/// Rounds extents to whole blocks ("descriptor lengths MUST be multiples of the minimum block
/// size"). A block whose parts differ gets the bits that all parts have (base:allocation), or the
/// bits that any part has (other contexts). Requires that `extents` begin at the start of a block.
inline void align(std::vector<extent>& extents, std::uint64_t block, bool allocation)
{
    std::vector<extent> aligned;
    const auto add = [&aligned](std::uint64_t length, std::uint64_t flags) {
        if (length == 0)
            return;
        if (!aligned.empty() && aligned.back().flags == flags)
            aligned.back().length += length;
        else
            aligned.push_back({length, flags});
    };
    std::uint64_t begun = 0;  // bytes of an incomplete block
    std::uint64_t bits = 0;   // of the incomplete block
    for (auto [length, flags] : extents) {
        if (begun != 0) {
            const auto part = std::min(length, block - begun);
            bits = allocation ? bits & flags : bits | flags;
            begun += part;
            length -= part;
            if (begun < block)
                continue;
            add(block, bits);
        }
        add(length / block * block, flags);
        begun = length % block;
        bits = flags;
    }
    // An incomplete block at the end is left out, unless it is the only one.
    if (begun != 0 && aligned.empty())
        add(block, allocation ? 0 : bits);
    extents = std::move(aligned);
}

[[nodiscard]] constexpr std::size_t descriptor_bytes(protocol::reply_style style) noexcept
{
    return style == protocol::reply_style::extended ? 16 : 8;
}

/// Appends `u32 length | u32 flags` for each extent, or with extended headers `u64 | u64`
/// (points 56 and 66). Compact lengths fit 32 bits because the requests do.
inline void append_descriptors(std::vector<std::byte>& to, std::span<const extent> extents,
                               protocol::reply_style style)
{
    const bool wide = style == protocol::reply_style::extended;
    const auto at = to.size();
    to.resize(at + extents.size() * descriptor_bytes(style));
    protocol::writer out{std::span{to}.subspan(at)};
    for (const auto& e : extents) {
        if (wide)
            out.put(e.length).put(e.flags);
        else
            out.put(static_cast<std::uint32_t>(e.length)).put(static_cast<std::uint32_t>(e.flags));
    }
}

/// The payload form of BLOCK_STATUS: `u64 effect length | n x u32 context id` (point 66).
struct status_payload {
    std::uint64_t length = 0;
    std::vector<std::uint32_t> ids;
};

/// Decodes the payload. *Returns* nullopt if the length is not 8 + 4n, or if an id occurs twice.
[[nodiscard]] inline std::optional<status_payload>
decode_status_payload(std::span<const std::byte> payload)
{
    if (payload.size() < 8 || payload.size() % 4 != 0)
        return std::nullopt;
    protocol::reader in{payload};
    status_payload p{.length = in.take<std::uint64_t>(), .ids = {}};
    while (in.left() != 0)
        p.ids.push_back(in.take<std::uint32_t>());
    std::sort(p.ids.begin(), p.ids.end());
    if (std::adjacent_find(p.ids.begin(), p.ids.end()) != p.ids.end())
        return std::nullopt;
    return p;
}

}  // namespace nbd::transmission
