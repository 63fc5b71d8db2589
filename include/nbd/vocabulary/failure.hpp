// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

namespace nbd {

/// Why a request failed; empty by default, which is success. Error codes convert to it, so most
/// backends never name this type.
struct failure {
    std::error_code code{};
    /// A text for people. Sent to clients with structured replies, and to the observer. If it is
    /// empty, clients get a fixed message for the error value, and the observer the message of
    /// `code`. UTF-8; at most 256 bytes are sent.
    std::string text{};
    /// The first byte of the export that failed, if that is known and inside the request.
    std::optional<std::uint64_t> offset{};
    /// `text` is what() of an exception: the observer gets it, clients only with
    /// settings.send_error_details.
    bool thrown = false;

    failure() = default;
    /// Converts from any error code, including Boost's, and from std::errc.
    template <std::convertible_to<std::error_code> Code>
    failure(Code c) : code{c}
    {
    }
    failure(std::errc c) : code{std::make_error_code(c)} {}
    failure(std::error_code c, std::string why, std::optional<std::uint64_t> at = std::nullopt)
        : code{c}, text{std::move(why)}, offset{at}
    {
    }
    failure(std::errc c, std::string why, std::optional<std::uint64_t> at = std::nullopt)
        : failure{std::make_error_code(c), std::move(why), at}
    {
    }

    /// `text`, or the message of `code` if that is empty.
    [[nodiscard]] std::string message() const { return text.empty() ? code.message() : text; }
    [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(code); }
    friend bool operator==(const failure& f, const std::error_code& c) noexcept
    {
        return f.code == c;
    }
    friend bool operator==(const failure& f, std::errc c) noexcept { return f.code == c; }
};

}  // namespace nbd
