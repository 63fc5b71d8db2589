// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/constants.hpp>
#include <nbd/protocol/request.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace nbd::protocol {

/// How replies look, as the handshake has settled it.
enum class reply_style {
    simple,      ///< nothing was negotiated
    structured,  ///< STRUCTURED_REPLY: chunks, and simple replies where there is no payload
    extended,    ///< EXTENDED_HEADERS: 32-byte requests and chunks, and nothing else
};

/// A chunk's header; `length` bytes of payload follow ("Structured reply chunk message").
struct chunk_header {
    std::uint16_t flags = 0;
    chunk type{};
    std::uint64_t cookie = 0;
    std::uint64_t offset = 0;  ///< the request's; on the wire with extended headers alone
    std::uint64_t length = 0;

    friend bool operator==(const chunk_header&, const chunk_header&) = default;
};

/// Bytes of a chunk's header.
[[nodiscard]] constexpr std::size_t chunk_bytes(reply_style style) noexcept
{
    return style == reply_style::extended ? extended_chunk_bytes : structured_chunk_bytes;
}

/// Bytes of a request's header.
[[nodiscard]] constexpr std::size_t request_bytes_of(reply_style style) noexcept
{
    return style == reply_style::extended ? extended_request_bytes : request_bytes;
}

/// Encodes a chunk's header into the first chunk_bytes(style) of `to`; style is not simple.
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
