// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/constants.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace nbd::protocol {

/// The header of an option, before `length` bytes of data ("Newstyle negotiation").
struct option_header {
    protocol::option option{};
    std::uint32_t length = 0;

    friend bool operator==(const option_header&, const option_header&) = default;
};

/// Encodes the greeting, the first bytes that the server sends. `flags`: handshake_flag bits.
inline void encode_greeting(std::span<std::byte, greeting_bytes> to, std::uint16_t flags) noexcept
{
    writer{to}.put(init_magic).put(option_magic).put(flags);
}

/// Decodes the header of an option. *Returns* nullopt if the magic is wrong. `option` may have a
/// value without an enumerator.
[[nodiscard]] inline std::optional<option_header>
decode_option_header(std::span<const std::byte, option_header_bytes> bytes) noexcept
{
    if (load<std::uint64_t>(bytes.first<8>()) != option_magic)
        return std::nullopt;
    return option_header{.option = static_cast<option>(load<std::uint32_t>(bytes.subspan<8, 4>())),
                         .length = load<std::uint32_t>(bytes.subspan<12, 4>())};
}

/// Encodes the header of an option reply, before `length` bytes of data.
inline void encode_option_reply(std::span<std::byte, option_reply_header_bytes> to, option o,
                                option_reply type, std::uint32_t length) noexcept
{
    writer{to}.put(option_reply_magic).put(o).put(type).put(length);
}

/// The data of INFO and GO: `u32 name length | name | u16 n | n x u16`.
/// *Lifetime*: views into the option's data.
struct info_request {
    std::string_view name;
    std::span<const std::byte> types;  ///< n big-endian u16

    /// Whether the client requests this information.
    [[nodiscard]] bool wants(info type) const noexcept
    {
        for (std::size_t at = 0; at + 2 <= types.size(); at += 2)
            if (load<std::uint16_t>(types.subspan(at, 2)) == static_cast<std::uint16_t>(type))
                return true;
        return false;
    }
};

/// Decodes the data of INFO and GO. *Returns* nullopt if the lengths do not add up to the length of
/// the option (point 33).
[[nodiscard]] inline std::optional<info_request>
decode_info_request(std::span<const std::byte> data) noexcept
{
    reader in{data};
    const auto name = in.take_string(in.take<std::uint32_t>());
    const auto types = in.take_bytes(std::size_t{in.take<std::uint16_t>()} * 2);
    if (!in.ok() || in.left() != 0)
        return std::nullopt;
    return info_request{name, types};
}

/// Whether `s` is a string of the protocol ("Conventions"): UTF-8 without NUL, at most 4096 bytes.
/// Overlong forms and surrogates are not UTF-8.
[[nodiscard]] constexpr bool valid_string(std::string_view s) noexcept
{
    if (s.size() > max_string_bytes)
        return false;
    for (std::size_t i = 0; i < s.size();) {
        const auto lead = static_cast<unsigned char>(s[i++]);
        if (lead == 0)
            return false;
        if (lead < 0x80)
            continue;
        const std::size_t more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
        if (lead < 0xc2 || lead > 0xf4 || more > s.size() - i)
            return false;
        char32_t code = lead & (0x3fU >> more);
        for (std::size_t k = 0; k < more; ++k) {
            const auto next = static_cast<unsigned char>(s[i++]);
            if ((next & 0xc0) != 0x80)
                return false;
            code = code << 6 | (next & 0x3fU);
        }
        constexpr char32_t least[] = {0x80, 0x800, 0x10000};
        if (code < least[more - 1] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
            return false;
    }
    return true;
}

}  // namespace nbd::protocol
