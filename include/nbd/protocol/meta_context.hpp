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

/// A meta context for which an export answers BLOCK_STATUS ("Metadata querying").
struct meta_context {
    /// `namespace:leaf`; a private namespace begins with "x-".
    std::string_view name;
    /// Its status has 64 bits: only clients with extended headers can select it.
    bool wide = false;
};

inline constexpr meta_context base_allocation{"base:allocation"};

/// A meta context that a client selected.
struct selected_context {
    std::uint32_t id = 0;   ///< in replies to this client
    std::size_t index = 0;  ///< among the contexts of the export

    friend bool operator==(const selected_context&, const selected_context&) = default;
};

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT:
/// `u32 name length | export name | u32 n | n x (u32 length | query)`.
/// *Lifetime*: views into the option's data.
struct meta_request {
    std::string_view export_name;
    std::uint32_t count = 0;
    std::span<const std::byte> queries;

    /// Whether a query of the option `o` matches the context `name`. In LIST, a query with an empty
    /// leaf matches all contexts of its namespace, and a list without queries matches all contexts.
    /// In SET, neither matches any context (points 40 to 42, 82).
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

/// Decodes the data of the option. *Returns* nullopt if the lengths do not add up to the length of
/// the option, or if a string is not valid.
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
