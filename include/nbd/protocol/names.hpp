// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/constants.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

/// The specification's names of its values, without the prefix of their group, for logs and
/// metrics: "READ" for NBD_CMD_READ. A value without a name gives an empty text.
namespace nbd::protocol {

namespace names {

inline constexpr std::array<std::string_view, 9> commands{
    "READ", "WRITE", "DISC", "FLUSH", "TRIM", "CACHE", "WRITE_ZEROES", "BLOCK_STATUS", "RESIZE"};
inline constexpr std::array<std::string_view, 12> options{"",
                                                          "EXPORT_NAME",
                                                          "ABORT",
                                                          "LIST",
                                                          "PEEK_EXPORT",
                                                          "STARTTLS",
                                                          "INFO",
                                                          "GO",
                                                          "STRUCTURED_REPLY",
                                                          "LIST_META_CONTEXT",
                                                          "SET_META_CONTEXT",
                                                          "EXTENDED_HEADERS"};
inline constexpr std::array<std::string_view, 6> command_flags{
    "FUA", "NO_HOLE", "DF", "REQ_ONE", "FAST_ZERO", "PAYLOAD_LEN"};
inline constexpr std::array<std::string_view, 13> transmission_flags{
    "HAS_FLAGS",           "READ_ONLY",   "SEND_FLUSH",        "SEND_FUA",
    "ROTATIONAL",          "SEND_TRIM",   "SEND_WRITE_ZEROES", "SEND_DF",
    "CAN_MULTI_CONN",      "SEND_RESIZE", "SEND_CACHE",        "SEND_FAST_ZERO",
    "BLOCK_STATUS_PAYLOAD"};

template <std::size_t N>
[[nodiscard]] constexpr std::string_view at(const std::array<std::string_view, N>& all,
                                            std::uint64_t number) noexcept
{
    return number < N ? all[static_cast<std::size_t>(number)] : std::string_view{};
}
/// The names of the bits that are set, from the lowest on, with a space between two.
template <std::size_t N>
[[nodiscard]] std::string of_bits(const std::array<std::string_view, N>& all, std::uint16_t bits)
{
    std::string text;
    for (std::size_t bit = 0; bit < N; ++bit)
        if ((static_cast<unsigned>(bits) >> bit & 1U) != 0)
            text.append(text.empty() ? "" : " ").append(all[bit]);
    return text;
}

}  // namespace names

[[nodiscard]] constexpr std::string_view name_of(command c) noexcept
{
    return names::at(names::commands, static_cast<std::uint16_t>(c));
}
[[nodiscard]] constexpr std::string_view name_of(option o) noexcept
{
    return names::at(names::options, static_cast<std::uint32_t>(o));
}
/// "success" for error_value::none, which has no name.
[[nodiscard]] constexpr std::string_view name_of(error_value e) noexcept
{
    switch (e) {
    case error_value::none:
        return "success";
    case error_value::eperm:
        return "EPERM";
    case error_value::eio:
        return "EIO";
    case error_value::enomem:
        return "ENOMEM";
    case error_value::einval:
        return "EINVAL";
    case error_value::enospc:
        return "ENOSPC";
    case error_value::eoverflow:
        return "EOVERFLOW";
    case error_value::enotsup:
        return "ENOTSUP";
    case error_value::eshutdown:
        return "ESHUTDOWN";
    }
    return {};
}
/// For example "FUA DF". Bits without a name are left out.
/// *Errors*: std::bad_alloc.
[[nodiscard]] inline std::string names_of_command_flags(std::uint16_t flags)
{
    return names::of_bits(names::command_flags, flags);
}
/// As above, for transmission flags: "HAS_FLAGS SEND_FLUSH".
[[nodiscard]] inline std::string names_of_transmission_flags(std::uint16_t flags)
{
    return names::of_bits(names::transmission_flags, flags);
}

}  // namespace nbd::protocol
