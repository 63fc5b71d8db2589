// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace nbd {

/// *Returns* `name` in a form that is safe in a log or an error text: control characters, quotes,
/// backslashes and non-ASCII bytes are escaped, and the result is cut after about 80 characters.
[[nodiscard]] inline std::string printable(std::string_view name)
{
    constexpr std::size_t longest = 80;
    constexpr char digits[] = "0123456789abcdef";
    std::string shown;
    for (const char c : name) {
        if (shown.size() >= longest)
            return shown + "...";
        const auto byte = static_cast<unsigned char>(c);
        if (byte >= 0x20 && byte < 0x7f && c != '\\' && c != '"') {
            shown += c;
        } else {
            shown += "\\x";
            shown += digits[byte >> 4];
            shown += digits[byte & 15];
        }
    }
    return shown;
}

}  // namespace nbd
