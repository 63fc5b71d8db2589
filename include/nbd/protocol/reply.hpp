// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/constants.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace nbd::protocol {

/// A simple reply ("Simple reply message"). The data of a READ follow where `error` is none.
struct simple_reply {
    error_value error = error_value::none;
    std::uint64_t cookie = 0;

    friend bool operator==(const simple_reply&, const simple_reply&) = default;
};

inline void encode_reply(std::span<std::byte, simple_reply_bytes> to,
                         const simple_reply& r) noexcept
{
    writer{to}.put(simple_reply_magic).put(r.error).put(r.cookie);
}

/// Decodes a simple reply, as a client does. *Returns* nullopt if the magic is wrong.
[[nodiscard]] inline std::optional<simple_reply>
decode_simple_reply(std::span<const std::byte, simple_reply_bytes> bytes) noexcept
{
    if (load<std::uint32_t>(bytes.first<4>()) != simple_reply_magic)
        return std::nullopt;
    return simple_reply{.error =
                            static_cast<error_value>(load<std::uint32_t>(bytes.subspan<4, 4>())),
                        .cookie = load<std::uint64_t>(bytes.subspan<8, 8>())};
}

}  // namespace nbd::protocol
