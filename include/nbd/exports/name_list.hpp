// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/option.hpp>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace nbd {

/// A page of the names that LIST answers, for the function of export_set::on_list. It keeps the
/// first names after a position, in bytewise order, as many as fit. The server asks for the next
/// page then, until settings.exports_listed names are sent. The function may add all names, in any
/// order. One that keeps its names in bytewise order saves time: it begins after `after()`, and
/// ends when `add` returns false.
/// *Thread safety*: one thread at a time.
class name_list {
public:
    /// A page ends with the name that brings it to this size in bytes.
    static constexpr std::size_t page_bytes = std::size_t{16} << 10;

    /// For the names after `position`; nullopt: all names. `secured`: the client uses TLS.
    explicit name_list(std::optional<std::string> position, bool secured = false)
        : position_{std::move(position)}, secured_{secured}
    {
    }
    name_list(const name_list&) = delete;
    name_list& operator=(const name_list&) = delete;

    /// The position: names up to this one, and this one, were listed before; nullopt at the
    /// beginning. It can be given to `upper_bound` of a set, a map or a sorted vector of names.
    [[nodiscard]] std::optional<std::string_view> after() const noexcept { return position_; }
    /// Whether the client has started TLS. To others, names of exports with `tls_only` should not
    /// be told.
    [[nodiscard]] bool secured() const noexcept { return secured_; }
    /// Adds a name and its description, or its description is the name. Names that are on the page
    /// or were listed before are ignored. So are those that no client can ask for: names that are
    /// no UTF-8, contain a zero byte or are longer than 4096 bytes.
    /// *Returns* false if this name, and every name after it, does not fit on the page.
    bool add(std::string_view name, std::optional<std::string_view> description = std::nullopt)
    {
        if ((position_ && name <= *position_) || !protocol::valid_string(name))
            return true;
        if (is_full() && name > names_.rbegin()->first) {
            more_ = true;
            return false;
        }
        if (!description || !protocol::valid_string(*description))
            description = name;
        const auto [at, is_new] = names_.try_emplace(std::string{name}, *description);
        if (is_new)
            bytes_ += size_of(*at);
        while (bytes_ - size_of(*names_.rbegin()) >= page_bytes) {
            bytes_ -= size_of(*names_.rbegin());
            names_.erase(std::prev(names_.end()));
            more_ = true;
        }
        return true;
    }

    // --- for the sessions -----------------------------------------------------------------------

    /// Whether names that were added do not fit on the page.
    [[nodiscard]] bool more() const noexcept { return more_; }
    /// The names and their descriptions, in bytewise order.
    [[nodiscard]] const auto& names() const noexcept { return names_; }

private:
    using names_type = std::map<std::string, std::string, std::less<>>;

    /// What a name takes in the reply and, about, in memory.
    static std::size_t size_of(const names_type::value_type& e) noexcept
    {
        constexpr std::size_t reply_and_length = 24;
        return reply_and_length + e.first.size() + e.second.size();
    }
    [[nodiscard]] bool is_full() const noexcept { return bytes_ >= page_bytes; }

    const std::optional<std::string> position_;
    const bool secured_;
    names_type names_;
    std::size_t bytes_ = 0;
    bool more_ = false;
};

}  // namespace nbd
