// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/call.hpp>
#include <nbd/error.hpp>
#include <nbd/protocol/request.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>
#include <system_error>
#include <type_traits>
#include <variant>

/// A request that was admitted becomes calls of the backend. What the backend lacks is made up for
/// here: FUA as a flush, WRITE_ZEROES as writes of zeroes. Whatever a backend throws ends here.
namespace nbd::transmission {

/// Calls a member of a backend; an exception becomes a failure, with its text.
template <class F>
[[nodiscard]] failure outcome_of(F&& member) noexcept
{
    try {
        if constexpr (std::is_void_v<decltype(member())>) {
            member();
            return {};
        } else {
            return member();
        }
    } catch (const std::exception& e) {
        const auto code = current_error();
        try {
            return {code, e.what()};
        } catch (...) {
            return code;
        }
    } catch (...) {
        return current_error();
    }
}

/// How a backend is called: what `lock()` gives is held during each single call of a member, and no
/// write that we make up ourselves is longer than `largest_write()`. This one is no guard at all.
struct unguarded {
    [[nodiscard]] std::monostate lock() const noexcept { return {}; }
    [[nodiscard]] std::size_t largest_write() const noexcept { return std::size_t(-1); }
};

/// One call of a member, guarded.
template <class Guard, class F>
[[nodiscard]] failure call(const Guard& guard, F&& member) noexcept
{
    return outcome_of([&]() -> failure {
        [[maybe_unused]] const auto lock = guard.lock();
        return outcome_of(member);
    });
}

/// A READ into memory of ours; `to` is as long as the request.
template <class B>
[[nodiscard]] failure read(B& backend, const protocol::request& r, std::span<std::byte> to) noexcept
{
    // A backend that claims success and fills less must not send a client what lay there before.
    if constexpr (!promises_fills_reads<B>)
        std::fill(to.begin(), to.end(), std::byte{0});
    if constexpr (has_handle<B>) {
        nbd::call c{r, {}, to};
        auto said = outcome_of([&] { return backend.handle(c); });
        return said ? said : failure{c.result()};
    } else {
        return outcome_of([&] { return backend.read(r.offset, to); });
    }
}

/// Writes one piece, durably where `fua` asks for it.
template <class B, class Guard = unguarded>
[[nodiscard]] failure write(B& backend, std::uint64_t offset, std::span<const std::byte> from,
                            bool fua, const Guard& guard = {}) noexcept
{
    if constexpr (has_fua_write<B>) {
        return call(guard, [&] { return backend.write(offset, from, write_flags{.fua = fua}); });
    } else {
        auto failed = call(guard, [&] { return backend.write(offset, from); });
        if constexpr (has_flush<B>) {
            if (!failed && fua)
                return call(guard, [&] { return backend.flush(); });
        }
        return failed;
    }
}

/// Zeroes to write from, in the part of the program that takes no room in its file.
inline std::array<std::byte, std::size_t{64} << 10> zero_block{};

/// WRITE_ZEROES by writing zeroes, for a backend without its own: bounded memory, whatever the
/// length. Only the last piece carries FUA, for a flush covers what was written before.
template <class B, class Guard = unguarded>
[[nodiscard]] failure write_zero_blocks(B& backend, std::uint64_t offset, std::uint64_t length,
                                        bool fua, const Guard& guard = {}) noexcept
{
    const auto most = std::min(zero_block.size(), guard.largest_write());
    while (length != 0) {
        const auto n = std::min<std::uint64_t>(length, most);
        // Native FUA covers its own piece alone.
        const bool durable = fua && (has_fua_write<B> || n == length);
        if (auto failed =
                write(backend, offset, std::span{zero_block}.first(static_cast<std::size_t>(n)),
                      durable, guard))
            return failed;
        offset += n;
        length -= n;
    }
    return {};
}

template <class B, class Guard = unguarded>
[[nodiscard]] failure write_zeroes(B& backend, const protocol::request& r,
                                   const Guard& guard = {}) noexcept
{
    namespace cf = protocol::command_flag;
    [[maybe_unused]] const bool fua = r.has(cf::fua);
    if constexpr (has_write_zeroes<B>) {
        // Without a flush, durable zeroes can only be written with the write's own FUA.
        if (has_flush<B> || !fua) {
            const zero_flags flags{.no_hole = r.has(cf::no_hole), .fast = r.has(cf::fast_zero)};
            auto failed =
                call(guard, [&] { return backend.write_zeroes(r.offset, r.length, flags); });
            if constexpr (has_flush<B>) {
                if (!failed && fua)
                    return call(guard, [&] { return backend.flush(); });
            }
            // "WRITE_ZEROES": ENOTSUP is for FAST_ZERO alone. A backend that cannot do it now gets
            // its zeroes written.
            if (failed.code != std::errc::not_supported
                && failed.code != std::errc::operation_not_supported)
                return failed;
        }
    }
    if (r.has(cf::fast_zero))
        return std::make_error_code(std::errc::not_supported);
    return write_zero_blocks(backend, r.offset, r.length, fua, guard);
}

template <class B, class Guard = unguarded>
[[nodiscard]] failure trim(B& backend, const protocol::request& r, const Guard& guard = {}) noexcept
{
    const bool fua = r.has(protocol::command_flag::fua);
    if (fua && !has_flush<B>)
        return {};  // "TRIM" is advice, and this one could not be made durable
    auto failed = call(guard, [&] { return backend.trim(r.offset, r.length); });
    if constexpr (has_flush<B>) {
        if (!failed && fua)
            return call(guard, [&] { return backend.flush(); });
    }
    return failed;
}

/// Carries out a request whose reply has no data: everything but READ and DISC. It was admitted.
template <class B, class Guard = unguarded>
[[nodiscard]] failure perform(B& backend, const protocol::request& r,
                              std::span<const std::byte> payload, const Guard& guard = {}) noexcept
{
    using protocol::command;
    if constexpr (has_handle<B>) {
        nbd::call c{r, payload, {}};
        auto said = call(guard, [&] { return backend.handle(c); });
        return said ? said : failure{c.result()};
    } else {
        switch (r.command) {
        case command::write:
            if constexpr (has_write<B>)
                return write(backend, r.offset, payload, r.has(protocol::command_flag::fua), guard);
            break;
        case command::flush:
            if constexpr (has_flush<B>)
                return call(guard, [&] { return backend.flush(); });
            break;
        case command::trim:
            if constexpr (has_trim<B>)
                return trim(backend, r, guard);
            break;
        case command::cache:
            if constexpr (has_cache<B>)
                return call(guard, [&] { return backend.cache(r.offset, r.length); });
            break;
        case command::write_zeroes:
            if constexpr (has_write<B>)
                return write_zeroes(backend, r, guard);
            break;
        default:
            break;
        }
        return std::make_error_code(std::errc::invalid_argument);
    }
}

}  // namespace nbd::transmission
