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
/// Units: `offset` and `length` are bytes. `cookie` is opaque and goes back unchanged.
struct request {
    std::uint16_t flags = 0;
    protocol::command command{};
    std::uint64_t cookie = 0;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    bool extended = false;  ///< came with an extended header

    [[nodiscard]] constexpr bool has(std::uint16_t flag) const noexcept
    {
        return (flags & flag) != 0;
    }
    /// Bytes that follow the header on the wire: with extended headers, where a flag says so.
    [[nodiscard]] constexpr std::uint64_t payload() const noexcept
    {
        const bool carries =
            extended ? has(command_flag::payload_len) : command == protocol::command::write;
        return carries ? length : 0;
    }

    friend bool operator==(const request&, const request&) = default;
};

/// Decodes a compact request. Nothing where the magic is wrong: the stream is out of step then and
/// cannot be resynchronised (point 47). `command` may hold a value that no enumerator has.
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

/// Decodes an extended request; as decode_request otherwise (point 50).
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

/// Encodes a compact request, as a client does; `length` must fit 32 bits.
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
