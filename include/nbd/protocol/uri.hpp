// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>

namespace nbd::protocol {

/// Percent-encodes all characters except `/` and the unreserved ones of RFC 3986.
[[nodiscard]] inline std::string percent_encode(std::string_view text)
{
    constexpr std::string_view plain =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/";
    constexpr char digits[] = "0123456789ABCDEF";
    std::string encoded;
    for (const char c : text) {
        if (plain.find(c) != std::string_view::npos) {
            encoded += c;
        } else {
            const auto byte = static_cast<unsigned char>(c);
            encoded += '%';
            encoded += digits[byte >> 4];
            encoded += digits[byte & 15];
        }
    }
    return encoded;
}

/// *Returns* `nbd://authority/name` (doc/uri.md; points 93 and 94). `scheme`: "nbds" with TLS.
[[nodiscard]] inline std::string tcp_uri(std::string_view authority, std::string_view name,
                                         std::string_view scheme = "nbd")
{
    return std::string{scheme} + "://" + std::string{authority} + '/' + percent_encode(name);
}

/// *Returns* `nbd+unix:///name?socket=path`. The path of an abstract socket begins with NUL (point
/// 95).
[[nodiscard]] inline std::string unix_uri(std::string_view path, std::string_view name)
{
    return "nbd+unix:///" + percent_encode(name) + "?socket=" + percent_encode(path);
}

}  // namespace nbd::protocol
