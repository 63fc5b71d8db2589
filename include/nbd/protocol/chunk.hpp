// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/constants.hpp>
#include <nbd/protocol/request.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace nbd::protocol {

/// The form of requests and replies, which the handshake negotiates.
enum class reply_style {
    simple,      ///< nothing was negotiated
    structured,  ///< STRUCTURED_REPLY: chunks, or simple replies where there is no payload
    extended,    ///< EXTENDED_HEADERS: 32-byte requests, and 32-byte chunks only
};

/// The header of a chunk, before `length` bytes of payload ("Structured reply chunk message").
struct chunk_header {
    std::uint16_t flags = 0;
    chunk type{};
    std::uint64_t cookie = 0;
    std::uint64_t offset = 0;  ///< of the request; sent with extended headers only
    std::uint64_t length = 0;

    friend bool operator==(const chunk_header&, const chunk_header&) = default;
};

/// The length of a chunk's header, in bytes.
[[nodiscard]] constexpr std::size_t chunk_bytes(reply_style style) noexcept
{
    return style == reply_style::extended ? extended_chunk_bytes : structured_chunk_bytes;
}

/// The length of a request's header, in bytes.
[[nodiscard]] constexpr std::size_t request_bytes_of(reply_style style) noexcept
{
    return style == reply_style::extended ? extended_request_bytes : request_bytes;
}

/// Encodes a chunk's header into the first chunk_bytes(style) bytes of `to`. Requires a style with
/// chunks.
inline void encode_chunk(std::span<std::byte> to, reply_style style, const chunk_header& c) noexcept
{
    writer out{to};
    if (style == reply_style::extended)
        out.put(extended_reply_magic)
            .put(c.flags)
            .put(c.type)
            .put(c.cookie)
            .put(c.offset)
            .put(c.length);
    else
        out.put(structured_reply_magic)
            .put(c.flags)
            .put(c.type)
            .put(c.cookie)
            .put(static_cast<std::uint32_t>(c.length));
}

}  // namespace nbd::protocol
