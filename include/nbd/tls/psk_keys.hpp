// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/tls/secret_file.hpp>
#include <nbd/vocabulary/failure.hpp>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <openssl/crypto.h>

namespace nbd::tls {

/// Pre-shared keys by identity, as in the files that GnuTLS's psktool writes: a line
/// `identity:key` for each client, the key in hexadecimal digits. An identity that begins with `#`
/// is in hexadecimal digits, too.
class psk_keys {
public:
    /// The shortest and the longest key, in bytes. A shorter key could be guessed; a longer one is
    /// too long for OpenSSL.
    static constexpr std::size_t least_bytes = 16;
    static constexpr std::size_t most_bytes = 256;
    /// The longest identity in bytes, that of OpenSSL.
    static constexpr std::size_t most_identity_bytes = 128;

    psk_keys() = default;
    psk_keys(psk_keys&&) = default;
    psk_keys& operator=(psk_keys&&) = delete;
    ~psk_keys()
    {
        for (auto& [identity, key] : keys_)
            OPENSSL_cleanse(key.data(), key.size());
    }

    /// *Returns* nothing if a line is wrong, with the cause in `why`: `file`, the number of the
    /// line, and what was expected.
    [[nodiscard]] static std::optional<psk_keys> parse(std::string_view text,
                                                       const std::string& file, failure& why)
    {
        psk_keys all;
        std::size_t number = 0;
        while (!text.empty()) {
            const auto end = std::min(text.find('\n'), text.size());
            auto line = text.substr(0, end);
            text.remove_prefix(std::min(end + 1, text.size()));
            ++number;
            if (line.ends_with('\r'))
                line.remove_suffix(1);
            if (line.empty())
                continue;
            if (const char* const expected = all.add(line)) {
                why = {std::errc::invalid_argument,
                       file + ":" + std::to_string(number) + ": expected " + expected};
                return std::nullopt;
            }
        }
        if (!all.keys_.empty())
            return all;
        why = {std::errc::invalid_argument,
               file + ": expected lines identity:key, with the key in hexadecimal digits"};
        return std::nullopt;
    }

    /// *Returns* the key of an identity, empty if there is none.
    [[nodiscard]] std::string_view find(std::string_view identity) const noexcept
    {
        const auto at = keys_.find(identity);
        return at == keys_.end() ? std::string_view{} : at->second;
    }

private:
    /// *Returns* what was expected instead of the line; null if it is right.
    [[nodiscard]] const char* add(std::string_view line)
    {
        const auto colon = line.rfind(':');
        if (colon == std::string_view::npos)
            return "identity:key";
        auto identity = std::optional{std::string{line.substr(0, colon)}};
        if (line.starts_with('#'))
            identity = from_hex(line.substr(1, colon - 1));
        if (!identity || identity->empty() || identity->size() > most_identity_bytes
            || identity->find('\0') != std::string::npos)
            return "an identity of 1 to 128 bytes before the colon";
        auto key = from_hex(line.substr(colon + 1));
        if (!key || key->size() < least_bytes || key->size() > most_bytes)
            return "a key of 32 to 512 hexadecimal digits behind the colon";
        if (!keys_.try_emplace(std::move(*identity), std::move(*key)).second)
            return "another identity: this one has a key already";
        return nullptr;
    }
    [[nodiscard]] static std::optional<std::string> from_hex(std::string_view digits)
    {
        const auto value = [](char c) {
            return c >= '0' && c <= '9' ? c - '0'
                : c >= 'a' && c <= 'f'  ? c - 'a' + 10
                : c >= 'A' && c <= 'F'  ? c - 'A' + 10
                                        : -1;
        };
        if (digits.size() % 2 != 0)
            return std::nullopt;
        std::string bytes;
        bytes.reserve(digits.size() / 2);
        for (std::size_t i = 0; i < digits.size(); i += 2) {
            const int high = value(digits[i]);
            const int low = value(digits[i + 1]);
            if (high < 0 || low < 0)
                return std::nullopt;
            bytes += static_cast<char>(high * 16 + low);
        }
        return bytes;
    }

    std::map<std::string, std::string, std::less<>> keys_;
};

}  // namespace nbd::tls
