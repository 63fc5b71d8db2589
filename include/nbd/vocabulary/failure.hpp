// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

namespace nbd {

/// Why a request failed, in as much detail as a backend cares to give; none by default. An error
/// code converts to one, so most backends never name this type.
struct failure {
    std::error_code code{};
    /// For people. Clients with structured replies see it; empty = the code's own message. UTF-8; what
    /// is over 256 bytes is cut.
    std::string text{};
    /// The first byte of the export that failed, if that is known and inside the request.
    std::optional<std::uint64_t> offset{};

    failure() = default;
    /// From any error code, Boost's too.
    template <std::convertible_to<std::error_code> Code>
    failure(Code c) : code{c}
    {
    }
    failure(std::error_code c, std::string why, std::optional<std::uint64_t> at = std::nullopt)
        : code{c}, text{std::move(why)}, offset{at}
    {
    }

    [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(code); }
    friend bool operator==(const failure& f, const std::error_code& c) noexcept
    {
        return f.code == c;
    }
    friend bool operator==(const failure& f, std::errc c) noexcept { return f.code == c; }
};

}  // namespace nbd
