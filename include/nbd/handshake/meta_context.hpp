// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/handshake/agreement.hpp>
#include <nbd/handshake/export_info.hpp>
#include <nbd/handshake/option_replies.hpp>
#include <nbd/protocol/meta_context.hpp>
#include <nbd/vocabulary/established.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nbd::handshake {

/// Whether the client can use a context: with structured replies, and one with 64-bit status with
/// extended headers (point 85).
[[nodiscard]] inline bool usable(const protocol::meta_context& context,
                                 protocol::reply_style style) noexcept
{
    using protocol::reply_style;
    return style == reply_style::extended || (style == reply_style::structured && !context.wide);
}

/// Whether the queries of a LIST or SET_META_CONTEXT name a context that the client can use.
[[nodiscard]] inline bool wanted(const protocol::meta_request& asked,
                                 const protocol::meta_context& context, protocol::option o,
                                 protocol::reply_style style) noexcept
{
    return asked.wants(context.name, o) && usable(context, style);
}

/// Appends a reply, with the id 0, for each context that LIST_META_CONTEXT queries (point 41).
inline void list_contexts(reply_bytes& to, const protocol::meta_request& asked,
                          const export_info& e, protocol::reply_style style)
{
    constexpr auto o = protocol::option::list_meta_context;
    for (const auto& context : e.contexts)
        if (wanted(asked, context, o, style))
            append_meta_context(to, o, 0, context.name);
}

/// The contexts that the last SET_META_CONTEXT selected (points 42 and 43). They are stored by
/// name, because the export may be replaced by one with other contexts before the client sends GO.
class context_selection {
public:
    void clear() noexcept { selected_.clear(); }

    /// Replaces the selection by the contexts that `asked` queries, and appends a reply for each.
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
            selected_.push_back({id, std::string{e.contexts[i].name}});
            append_meta_context(to, o, id, e.contexts[i].name);
        }
    }

    /// Replaces the selection by what the client has selected elsewhere, for the export `name`.
    void assume(std::string_view name, std::span<const established_context> contexts)
    {
        clear();
        export_ = name;
        for (const auto& c : contexts)
            selected_.push_back({c.id, c.name});
    }

    /// *Returns* the selected contexts that the export has now, with the ids that the client was
    /// told; nothing for an export other than the one that they were selected for.
    [[nodiscard]] std::vector<selected_context> resolve(const export_info& e,
                                                        protocol::reply_style style) const
    {
        std::vector<selected_context> found;
        if (e.name != export_)
            return found;
        for (const auto& s : selected_) {
            const auto at = std::find_if(e.contexts.begin(), e.contexts.end(), [&](const auto& c) {
                return c.name == s.name && usable(c, style);
            });
            if (at != e.contexts.end())
                found.push_back(
                    {.id = s.id, .index = static_cast<std::size_t>(at - e.contexts.begin())});
        }
        return found;
    }

private:
    struct selected {
        std::uint32_t id;
        std::string name;
    };
    std::vector<selected> selected_;
    std::string export_;
};

}  // namespace nbd::handshake
