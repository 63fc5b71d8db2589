// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/option.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace nbd::protocol {

/// A metadata context that an export can answer BLOCK_STATUS for ("Metadata querying").
struct meta_context {
    /// `namespace:leaf`; a user's own namespace begins with "x-".
    std::string_view name;
    /// Its status needs more than 32 bits, so that only clients with extended headers can have it.
    bool wide = false;
};

inline constexpr meta_context base_allocation{"base:allocation"};

/// A metadata context that a client has selected.
struct selected_context {
    std::uint32_t id = 0;   ///< as the client knows it
    std::size_t index = 0;  ///< among those of the export

    friend bool operator==(const selected_context&, const selected_context&) = default;
};

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT:
/// `u32 name_len | export name | u32 n | n x (u32 len | query)`. Views into the option's data.
struct meta_request {
    std::string_view export_name;
    std::uint32_t count = 0;
    std::span<const std::byte> queries;

    /// Whether the queries ask for a context of this name. An empty leaf asks for all of its
    /// namespace in LIST and for none in SET; no query at all asks for everything in LIST (points
    /// 40 to 42, 82). Queries of unknown namespaces match nothing.
    [[nodiscard]] bool wants(std::string_view name, option o) const noexcept
    {
        if (o == option::list_meta_context && count == 0)
            return true;
        reader in{queries};
        for (auto n = count; n != 0; --n) {
            const auto query = in.take_string(in.take<std::uint32_t>());
            if (query == name)
                return true;
            if (o == option::list_meta_context && query.ends_with(':')
                && query.find(':') == query.size() - 1 && name.starts_with(query))
                return true;
        }
        return false;
    }
};

/// Nothing where a length overruns the option, bytes are left over, or a string is not one.
[[nodiscard]] inline std::optional<meta_request>
decode_meta_request(std::span<const std::byte> data) noexcept
{
    reader in{data};
    const auto name = in.take_string(in.take<std::uint32_t>());
    const auto count = in.take<std::uint32_t>();
    const auto queries = data.last(in.ok() ? in.left() : 0);
    for (auto n = count; n != 0 && in.ok(); --n)
        if (!valid_string(in.take_string(in.take<std::uint32_t>())))
            return std::nullopt;
    if (!in.ok() || in.left() != 0 || !valid_string(name))
        return std::nullopt;
    return meta_request{name, count, queries};
}

}  // namespace nbd::protocol
