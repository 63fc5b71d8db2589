// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/constants.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace nbd::protocol {

/// A request of the transmission phase ("Request message").
struct request {
    std::uint16_t flags = 0;
    protocol::command command{};
    std::uint64_t cookie = 0;  ///< opaque; replies return it unchanged
    std::uint64_t offset = 0;  ///< bytes
    std::uint64_t length = 0;  ///< bytes
    bool extended = false;     ///< has an extended header

    [[nodiscard]] constexpr bool has(std::uint16_t flag) const noexcept
    {
        return (flags & flag) != 0;
    }
    /// The length in bytes of the payload that follows the header. A compact WRITE has a payload,
    /// and an extended request with PAYLOAD_LEN.
    [[nodiscard]] constexpr std::uint64_t payload() const noexcept
    {
        const bool carries =
            extended ? has(command_flag::payload_len) : command == protocol::command::write;
        return carries ? length : 0;
    }

    friend bool operator==(const request&, const request&) = default;
};

/// Decodes a compact request. *Returns* nullopt if the magic is wrong: the server cannot find the
/// next request in the stream then (point 47). `command` may have a value without an enumerator.
[[nodiscard]] inline std::optional<request>
decode_request(std::span<const std::byte, request_bytes> bytes) noexcept
{
    if (load<std::uint32_t>(bytes.first<4>()) != request_magic)
        return std::nullopt;
    return request{.flags = load<std::uint16_t>(bytes.subspan<4, 2>()),
                   .command = static_cast<command>(load<std::uint16_t>(bytes.subspan<6, 2>())),
                   .cookie = load<std::uint64_t>(bytes.subspan<8, 8>()),
                   .offset = load<std::uint64_t>(bytes.subspan<16, 8>()),
                   .length = load<std::uint32_t>(bytes.subspan<24, 4>())};
}

/// Decodes an extended request (point 50). Otherwise as decode_request.
[[nodiscard]] inline std::optional<request>
decode_extended_request(std::span<const std::byte, extended_request_bytes> bytes) noexcept
{
    if (load<std::uint32_t>(bytes.first<4>()) != extended_request_magic)
        return std::nullopt;
    return request{.flags = load<std::uint16_t>(bytes.subspan<4, 2>()),
                   .command = static_cast<command>(load<std::uint16_t>(bytes.subspan<6, 2>())),
                   .cookie = load<std::uint64_t>(bytes.subspan<8, 8>()),
                   .offset = load<std::uint64_t>(bytes.subspan<16, 8>()),
                   .length = load<std::uint64_t>(bytes.subspan<24, 8>()),
                   .extended = true};
}

/// Encodes a compact request, as a client does. Requires a length below 2^32.
inline void encode_request(std::span<std::byte, request_bytes> to, const request& r) noexcept
{
    writer{to}
        .put(request_magic)
        .put(r.flags)
        .put(r.command)
        .put(r.cookie)
        .put(r.offset)
        .put(static_cast<std::uint32_t>(r.length));
}

}  // namespace nbd::protocol
