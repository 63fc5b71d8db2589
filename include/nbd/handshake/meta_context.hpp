// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/handshake/agreement.hpp>
#include <nbd/handshake/export_info.hpp>
#include <nbd/protocol/meta_context.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nbd::handshake {

/// Whether the client asks for a context that it could make use of: one with a status of 64 bits is
/// left out for those without extended headers (point 85).
[[nodiscard]] inline bool wanted(const protocol::meta_request& asked,
                                 const protocol::meta_context& context, protocol::option o,
                                 protocol::reply_style style) noexcept
{
    return asked.wants(context.name, o)
        && (!context.wide || style == protocol::reply_style::extended);
}

/// The contexts that LIST_META_CONTEXT asks for, with the id 0 (point 41).
inline void list_contexts(reply_bytes& to, const protocol::meta_request& asked,
                          const export_info& e, protocol::reply_style style)
{
    constexpr auto o = protocol::option::list_meta_context;
    for (const auto& context : e.contexts)
        if (wanted(asked, context, o, style))
            append_meta_context(to, o, 0, context.name);
}

/// What the last SET_META_CONTEXT has selected (points 42 and 43).
class context_selection {
public:
    void clear() noexcept { selected_.clear(); }

    /// Selects what was asked for, each context once, and appends a reply for each.
    void select(reply_bytes& to, const protocol::meta_request& asked, const export_info& e,
                protocol::reply_style style)
    {
        constexpr auto o = protocol::option::set_meta_context;
        clear();
        export_ = e.name;
        for (std::size_t i = 0; i < e.contexts.size(); ++i) {
            if (!wanted(asked, e.contexts[i], o, style))
                continue;
            const auto id = static_cast<std::uint32_t>(i + 1);
            selected_.push_back({.id = id, .index = i});
            append_meta_context(to, o, id, e.contexts[i].name);
        }
    }

    /// A selection counts for the export that it was made for alone.
    [[nodiscard]] std::vector<selected_context> of(std::string_view export_name) const
    {
        return export_name == export_ ? selected_ : std::vector<selected_context>{};
    }

private:
    std::vector<selected_context> selected_;
    std::string export_;
};

}  // namespace nbd::handshake
