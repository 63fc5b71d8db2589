// SPDX-License-Identifier: MIT
// Bytes for tests: from hexadecimal text with spaces, from numbers and from text.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace nbd_test {

using bytes = std::vector<std::byte>;

/// Bytes from text such as "0003 e889"; spaces are ignored.
inline bytes hex(std::string_view digits)
{
    const auto value = [](char c) {
        const auto at = std::string_view{"0123456789abcdef"}.find(c);
        if (at == std::string_view::npos)
            throw std::invalid_argument{std::string{"not a hex digit: "} + c};
        return static_cast<unsigned>(at);
    };
    bytes all;
    unsigned high = 16;
    for (const char c : digits) {
        if (c == ' ' || c == '\n')
            continue;
        if (high == 16) {
            high = value(c);
        } else {
            all.push_back(static_cast<std::byte>(high << 4 | value(c)));
            high = 16;
        }
    }
    if (high != 16)
        throw std::invalid_argument{"an odd number of hex digits"};
    return all;
}

/// Text in groups of four bytes, so that a failed comparison prints both sides.
inline std::string shown(std::span<const std::byte> from)
{
    constexpr char digits[] = "0123456789abcdef";
    std::string all;
    for (std::size_t i = 0; i < from.size(); ++i) {
        if (i != 0 && i % 4 == 0)
            all += ' ';
        all += digits[std::to_integer<unsigned>(from[i]) >> 4];
        all += digits[std::to_integer<unsigned>(from[i]) & 15];
    }
    return all;
}

inline bytes text(std::string_view s)
{
    const auto* const at = reinterpret_cast<const std::byte*>(s.data());
    return {at, at + s.size()};
}

inline std::string as_text(std::span<const std::byte> from)
{
    return {reinterpret_cast<const char*>(from.data()), from.size()};
}

/// An unsigned integer, big-endian, in the size of its type.
template <class T>
bytes big(T value)
{
    bytes all(sizeof(T));
    for (std::size_t i = sizeof(T); i-- != 0; value = static_cast<T>(value >> 4 >> 4))
        all[i] = static_cast<std::byte>(value & 0xff);
    return all;
}

inline bytes operator+(bytes left, const bytes& right)
{
    left.insert(left.end(), right.begin(), right.end());
    return left;
}

/// `n` bytes that differ from their neighbours; a different `seed` gives different bytes.
inline bytes pattern(std::size_t n, unsigned seed = 1)
{
    constexpr std::size_t period = 251 * 256;
    bytes all(n);
    for (std::size_t i = 0; i < std::min(n, period); ++i)
        all[i] = static_cast<std::byte>((i * 7 + i / 251 + seed * 37) & 0xff);
    for (std::size_t i = period; i < n; i += period)  // sanitizers are slow with single bytes
        std::memcpy(all.data() + i, all.data(), std::min(period, n - i));
    return all;
}

// --- messages of a client, and replies --------------------------------------------------------

inline bytes client_flags(std::uint32_t flags = 3)
{
    return big(flags);
}
inline bytes option(std::uint32_t number, const bytes& data = {})
{
    return hex("49484156454f5054") + big(number) + big(static_cast<std::uint32_t>(data.size()))
        + data;
}
/// The data of INFO and GO.
inline bytes info_data(std::string_view name, const std::vector<std::uint16_t>& types = {})
{
    auto all = big(static_cast<std::uint32_t>(name.size())) + text(name)
        + big(static_cast<std::uint16_t>(types.size()));
    for (const auto type : types)
        all = all + big(type);
    return all;
}
inline bytes option_reply(std::uint32_t number, std::uint32_t type, const bytes& data = {})
{
    return hex("0003e889045565a9") + big(number) + big(type)
        + big(static_cast<std::uint32_t>(data.size())) + data;
}
inline bytes request(std::uint16_t command, std::uint64_t cookie, std::uint64_t offset,
                     std::uint32_t length, std::uint16_t flags = 0)
{
    return hex("25609513") + big(flags) + big(command) + big(cookie) + big(offset) + big(length);
}
inline bytes simple_reply(std::uint32_t error, std::uint64_t cookie)
{
    return hex("67446698") + big(error) + big(cookie);
}

}  // namespace nbd_test
