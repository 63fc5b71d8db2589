// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/handshake/option_replies.hpp>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace nbd::handshake {

/// The answer to LIST, in pieces. Between two pieces it keeps only the last name, and no lock or
/// export.
class export_listing {
public:
    /// A piece ends with the export that brings it to this size in bytes.
    static constexpr std::size_t piece_bytes = std::size_t{16} << 10;

    /// Begins a list of at most `most` exports.
    void begin(std::size_t most) noexcept
    {
        position_.reset();
        left_ = most;
    }
    /// *Returns* the name of the last export that was added; nullopt at the beginning.
    [[nodiscard]] const std::optional<std::string>& position() const noexcept { return position_; }
    /// Whether the list has the largest allowed number of exports.
    [[nodiscard]] bool full() const noexcept { return left_ == 0; }

    /// Appends an export to the piece in `to`. *Returns* false, and appends nothing, if the piece
    /// or the list is full.
    [[nodiscard]] bool add(reply_bytes& to, std::string_view name, std::string_view description)
    {
        if (full() || to.size() >= piece_bytes)
            return false;
        position_ = name;
        append_server(to, name, description);
        --left_;
        return true;
    }

    /// Goes on after an export that the client must not see.
    void skip(std::string_view name) { position_ = name; }

private:
    std::optional<std::string> position_;
    std::size_t left_ = 0;
};

}  // namespace nbd::handshake
