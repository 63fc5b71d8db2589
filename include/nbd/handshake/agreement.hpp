// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/chunk.hpp>
#include <nbd/protocol/meta_context.hpp>
#include <nbd/protocol/terms.hpp>

#include <utility>
#include <vector>

namespace nbd::handshake {

using protocol::selected_context;

/// What a handshake negotiated for the transmission phase.
struct agreement {
    protocol::export_terms terms;
    protocol::reply_style style = protocol::reply_style::simple;
    std::vector<selected_context> contexts{};
};

/// *Returns* the agreement for a client that chooses an export now.
[[nodiscard]] inline agreement agree(const protocol::export_terms& offered,
                                     protocol::reply_style style,
                                     std::vector<selected_context> contexts)
{
    using protocol::reply_style;
    namespace tf = protocol::transmission_flag;
    agreement a{.terms = offered, .style = style, .contexts = std::move(contexts)};
    a.terms.told = a.terms.size;
    a.terms.block_status = !a.contexts.empty();
    // DF needs chunks; the payload form of BLOCK_STATUS needs extended headers and contexts.
    if (style != reply_style::simple)
        a.terms.flags |= tf::send_df;
    if (style == reply_style::extended && a.terms.block_status)
        a.terms.flags |= tf::block_status_payload;
    return a;
}

}  // namespace nbd::handshake
