// SPDX-License-Identifier: MIT
// What the targets of whole sessions have in common.
#pragma once

#include "disks.hpp"
#include "handshake_model.hpp"
#include "harness.hpp"
#include "session_parts.hpp"
#include <nbd/settings.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace nbd_fuzz {

/// What goes wrong, and how fast the client is: seven bytes of the input.
struct circumstances {
    circumstances(choices& c, const std::array<std::size_t, 6>& paces)
        : trouble_kind{c.next()}, nth{c.next()}, shape{c.next()}, pace{c.next(paces)},
          fails_at{c.next()}, stops_at{c.next()}, small{c.next()}
    {
    }
    /// Resets what a run changes.
    void begin(session_parts& parts, disk_memory& memory, nbd_model::image& content,
               std::span<const std::byte> input) const
    {
        memory.restore();
        content.restore();
        nbd_fuzz::begin(memory, trouble_kind, nth, shape);
        parts.begin(input, pace, fails_at == 0 ? memory_stream::all : fails_at, stops_at);
    }

    unsigned trouble_kind;  ///< how a call fails, and with which error
    unsigned nth;           ///< which call fails
    unsigned shape;         ///< the layout of extents
    std::size_t pace;       ///< how many bytes arrive at a time
    unsigned fails_at;      ///< the operation of the stream that fails; 0 = none does
    unsigned stops_at;      ///< before this operation the server begins to stop; 0 = it does not
    unsigned small;         ///< which limits are small
};

/// An export as the model knows it.
inline nbd_model::served_export told_of(const std::string& name, std::uint64_t size,
                                        const nbd::export_settings& e)
{
    nbd_model::served_export told{
        .name = name,
        .description = e.description.value_or(name),
        .size = size,
        .tls_only = e.tls_only,
        .require_block_sizes = e.require_block_sizes,
        .contexts = {{"base:allocation"}, {"x-fuzz:one"}, {"x-fuzz:wide", true}}};
    if (e.blocks) {
        told.minimum_block = e.blocks->minimum;
        told.preferred_block = e.blocks->preferred;
        told.maximum_payload = e.blocks->maximum;
    }
    return told;
}

}  // namespace nbd_fuzz
