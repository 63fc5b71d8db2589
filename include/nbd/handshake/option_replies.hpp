// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/handshake/export_info.hpp>
#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/protocol/terms.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

/// Encoders of the server's answers to options. Each appends to the bytes that are sent next.
namespace nbd::handshake {

using reply_bytes = std::vector<std::byte>;

/// Appends `n` bytes. *Returns* them, for the caller to fill. *Lifetime*: until the next append.
[[nodiscard]] inline std::span<std::byte> append(reply_bytes& to, std::size_t n)
{
    to.resize(to.size() + n);
    return std::span{to}.last(n);
}

/// Appends the header of an option reply and `length` bytes of data. *Returns* the data, for the
/// caller to fill.
[[nodiscard]] inline std::span<std::byte>
append_reply(reply_bytes& to, protocol::option o, protocol::option_reply type, std::size_t length)
{
    constexpr auto header = protocol::option_reply_header_bytes;
    const auto room = append(to, header + length);
    protocol::encode_option_reply(room.first<header>(), o, type,
                                  static_cast<std::uint32_t>(length));
    return room.subspan(header);
}

/// Appends an option reply whose data are a text: an error with its explanation (point 22), or an
/// ACK with an empty text.
inline void append_reply(reply_bytes& to, protocol::option o, protocol::option_reply type,
                         std::string_view text)
{
    protocol::writer{append_reply(to, o, type, text.size())}.put_text(text);
}

/// Appends INFO_EXPORT: `u16 0 | u64 size | u16 flags` (point 45).
inline void append_info_export(reply_bytes& to, protocol::option o, const protocol::export_terms& t)
{
    protocol::writer{append_reply(to, o, protocol::option_reply::info, 12)}
        .put(protocol::info::export_)
        .put(t.size)
        .put(t.flags);
}

/// Appends INFO_BLOCK_SIZE: `u16 3 | u32 minimum | u32 preferred | u32 maximum payload` (point 45).
inline void append_info_block_size(reply_bytes& to, protocol::option o,
                                   const protocol::block_sizes& b)
{
    protocol::writer{append_reply(to, o, protocol::option_reply::info, 14)}
        .put(protocol::info::block_size)
        .put(b.minimum)
        .put(b.preferred)
        .put(b.maximum);
}

/// Appends INFO_NAME or INFO_DESCRIPTION: `u16 type | text` (point 45).
inline void append_info_text(reply_bytes& to, protocol::option o, protocol::info type,
                             std::string_view text)
{
    protocol::writer{append_reply(to, o, protocol::option_reply::info, 2 + text.size())}
        .put(type)
        .put_text(text);
}

/// Appends the answer to INFO and GO: INFO_EXPORT, and the other information that the client
/// requested.
inline void append_info(reply_bytes& to, protocol::option o,
                        const protocol::info_request& requested, const export_info& e,
                        const protocol::export_terms& terms)
{
    append_info_export(to, o, terms);
    if (requested.wants(protocol::info::name))
        append_info_text(to, o, protocol::info::name, e.name);
    if (requested.wants(protocol::info::description))
        append_info_text(to, o, protocol::info::description, e.description);
    if (requested.wants(protocol::info::block_size))
        append_info_block_size(to, o, terms.blocks);
}

/// Appends REP_SERVER: `u32 name length | name | description` (point 26).
inline void append_server(reply_bytes& to, std::string_view name, std::string_view description)
{
    protocol::writer{append_reply(to, protocol::option::list, protocol::option_reply::server,
                                  4 + name.size() + description.size())}
        .put(static_cast<std::uint32_t>(name.size()))
        .put_text(name)
        .put_text(description);
}

/// Appends REP_META_CONTEXT: `u32 id | name` (point 26).
inline void append_meta_context(reply_bytes& to, protocol::option o, std::uint32_t id,
                                std::string_view name)
{
    protocol::writer{append_reply(to, o, protocol::option_reply::meta_context, 4 + name.size())}
        .put(id)
        .put_text(name);
}

/// Appends the answer to EXPORT_NAME, which has no header: `u64 size | u16 flags`, and 124 zeroes
/// unless NO_ZEROES was negotiated (point 28).
inline void append_export_name(reply_bytes& to, const protocol::export_terms& t, bool no_zeroes)
{
    protocol::writer{append(to, 10)}.put(t.size).put(t.flags);
    if (!no_zeroes)
        to.resize(to.size() + protocol::export_name_padding_bytes);
}

}  // namespace nbd::handshake
