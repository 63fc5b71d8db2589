// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <system_error>

namespace nbd {

/// A backend that reads as zero and discards writes, for measuring the server without a disk.
/// *Thread safety*: parallel.
class null_backend final {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool multi_conn = true;
    static constexpr bool fast_zero = true;
    static constexpr bool fills_reads = true;

    /// `size` in bytes.
    explicit null_backend(std::uint64_t size) noexcept : size_{size} {}

    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    std::error_code read(std::uint64_t, std::span<std::byte> to) noexcept
    {
        std::fill(to.begin(), to.end(), std::byte{0});
        return {};
    }
    std::error_code write(std::uint64_t, std::span<const std::byte>) noexcept { return {}; }
    std::error_code flush() noexcept { return {}; }
    std::error_code trim(std::uint64_t, std::uint64_t) noexcept { return {}; }
    std::error_code write_zeroes(std::uint64_t, std::uint64_t, zero_flags) noexcept { return {}; }
    std::error_code cache(std::uint64_t, std::uint64_t) noexcept { return {}; }

    std::error_code extents(std::uint64_t, std::uint64_t length, extent_list& to)
    {
        to.add(length, protocol::state_flag::hole | protocol::state_flag::zero);
        return {};
    }

private:
    std::uint64_t size_;
};

}  // namespace nbd
