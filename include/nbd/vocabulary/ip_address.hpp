// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

namespace nbd {

/// An IPv6 address in network byte order. An IPv4 address is the IPv6 address that it is mapped to,
/// "::ffff:10.0.0.1", so an address has only one form.
struct ip_address {
    std::array<std::uint8_t, 16> bytes{};

    [[nodiscard]] static constexpr ip_address v4(const std::array<std::uint8_t, 4>& address)
    {
        ip_address mapped;
        mapped.bytes[10] = mapped.bytes[11] = 0xff;
        std::copy(address.begin(), address.end(), mapped.bytes.begin() + 12);
        return mapped;
    }
    [[nodiscard]] constexpr bool is_v4() const noexcept
    {
        return std::equal(bytes.begin(), bytes.begin() + 12, v4({}).bytes.begin());
    }
    friend bool operator==(const ip_address&, const ip_address&) = default;
};

}  // namespace nbd
