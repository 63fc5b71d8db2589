// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/protocol/terms.hpp>
#include <nbd/settings.hpp>

#include <cstdint>

namespace nbd::transmission {

/// Whether FUA can be honoured: natively, or by a flush after the write.
template <class B>
concept can_fua = has_fua_write<B> || (has_plain_write<B> && has_flush<B>);

/// *Returns* the transmission flags for the type of a backend ("Transmission flags", point 12: a
/// flag MUST NOT be set for something unsupported).
template <class B>
[[nodiscard]] consteval std::uint16_t capabilities() noexcept
{
    using namespace protocol::transmission_flag;
    unsigned flags = has_flags;
    const auto add = [&flags](bool present, std::uint16_t flag) {
        if (present)
            flags |= flag;
    };
    constexpr bool all = has_handle<B>;
    constexpr bool writable = all || has_write<B>;
    add(!writable, read_only);
    add(all || has_flush<B>, send_flush);
    add(all || can_fua<B>, send_fua);
    add(all || (writable && has_trim<B>), send_trim);
    add(writable, send_write_zeroes);
    add(writable && promises_fast_zero<B>, send_fast_zero);
    add(all || has_cache<B>, send_cache);
    add(promises_multi_conn<B>, can_multi_conn);
    add(promises_rotational<B>, rotational);
    add(writable && has_resize<B>, send_resize);
    return static_cast<std::uint16_t>(flags);
}

/// *Returns* the flags of a type without those that a backend of it withholds at run time, and with
/// read_only and rotational where it says so.
[[nodiscard]] constexpr std::uint16_t available(std::uint16_t capabilities,
                                                const abilities& now) noexcept
{
    using namespace protocol::transmission_flag;
    unsigned flags = capabilities;
    const auto keep = [&flags](bool kept, std::uint16_t flag) {
        if (!kept)
            flags &= ~unsigned{flag};
    };
    keep(now.flush, send_flush);
    keep(now.flush && now.fua, send_fua);
    keep(now.trim, send_trim);
    keep(now.write_zeroes, send_write_zeroes);
    keep(now.write_zeroes && now.fast_zero, send_fast_zero);
    keep(now.cache, send_cache);
    keep(now.resize, send_resize);
    keep(now.multi_conn, can_multi_conn);
    if (now.read_only)
        flags |= read_only;
    if (now.rotational)
        flags |= rotational;
    return static_cast<std::uint16_t>(flags);
}

/// The transmission flags that an export can withhold. An export cannot add one of them.
inline constexpr std::uint16_t withholdable = protocol::transmission_flag::send_flush
    | protocol::transmission_flag::send_fua | protocol::transmission_flag::send_trim
    | protocol::transmission_flag::send_write_zeroes | protocol::transmission_flag::send_fast_zero
    | protocol::transmission_flag::send_cache | protocol::transmission_flag::can_multi_conn;

/// *Returns* the flags for a client that must not write.
[[nodiscard]] constexpr std::uint16_t without_writes(std::uint16_t flags) noexcept
{
    using namespace protocol::transmission_flag;
    constexpr unsigned writing =
        send_fua | send_trim | send_write_zeroes | send_fast_zero | send_resize;
    return static_cast<std::uint16_t>((flags & ~writing) | read_only);
}

/// *Returns* the transmission flags for the clients of an export: the backend's, without those that
/// the export withholds. A read-only backend or export offers no command that writes.
[[nodiscard]] constexpr std::uint16_t offered(std::uint16_t capabilities,
                                              const export_settings& e) noexcept
{
    using namespace protocol::transmission_flag;
    unsigned flags = capabilities & ~(e.withhold & withholdable);
    if (e.rotational)
        flags |= rotational;
    if (e.read_only || (flags & read_only) != 0)
        flags = without_writes(static_cast<std::uint16_t>(flags));
    if (!e.allow_resize)
        flags &= ~unsigned{send_resize};
    if ((flags & send_write_zeroes) == 0)
        flags &= ~unsigned{send_fast_zero};
    return static_cast<std::uint16_t>(flags);
}

}  // namespace nbd::transmission
