// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/error.hpp>
#include <nbd/protocol/request.hpp>
#include <nbd/transmission/admission.hpp>
#include <nbd/transmission/plan.hpp>
#include <nbd/vocabulary/call.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>

/// Makes the calls that a plan asks for. Whatever a backend throws ends here.
namespace nbd::transmission {

/// The exception that is being handled, as a failure with its text.
[[nodiscard]] inline failure current_failure() noexcept
{
    try {
        throw;
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

/// Calls a member of a backend; an exception becomes a failure.
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
    } catch (...) {
        return current_failure();
    }
}

/// What a request brings for the calls of its plan, and takes from them.
struct request_data {
    const protocol::request* request = nullptr;
    std::span<const std::byte> payload{};  ///< a WRITE's
    std::span<std::byte> data{};           ///< a READ's, as long as the request
    extent_list* extents = nullptr;
};

/// A backend that claims success and fills less must not send a client what lay there.
template <class B>
void clear_unless_filled([[maybe_unused]] std::span<std::byte> data) noexcept
{
    if constexpr (!promises_fills_reads<B>)
        std::fill(data.begin(), data.end(), std::byte{0});
}

/// Calls `visit` with a function that makes the call which `s` asks for. The outcome of that function
/// is what the member of the backend returns.
template <class B, class Visit>
decltype(auto) visit_member(B& backend, const step& s, const request_data& c, Visit&& visit)
{
    using member = step::member;
    [[maybe_unused]] const auto write = [&](std::span<const std::byte> data) {
        if constexpr (has_fua_write<B>)
            return visit([&] { return backend.write(s.offset, data, write_flags{.fua = s.fua}); });
        else if constexpr (has_plain_write<B>)
            return visit([&] { return backend.write(s.offset, data); });
    };
    switch (s.what) {
    case member::read:
        if constexpr (has_read<B>) {
            const auto at = static_cast<std::size_t>(s.offset - c.request->offset);
            const auto data = c.data.subspan(at, static_cast<std::size_t>(s.length));
            clear_unless_filled<B>(data);
            return visit([&] { return backend.read(s.offset, data); });
        }
        break;
    case member::write:
        if constexpr (has_write<B>)
            return write(c.payload);
        break;
    case member::write_block:
        if constexpr (has_write<B>)
            return write(std::span{zero_block}.first(static_cast<std::size_t>(s.length)));
        break;
    case member::flush:
        if constexpr (has_flush<B>)
            return visit([&] { return backend.flush(); });
        break;
    case member::trim:
        if constexpr (has_trim<B>)
            return visit([&] { return backend.trim(s.offset, s.length); });
        break;
    case member::write_zeroes:
        if constexpr (has_write_zeroes<B>)
            return visit([&] { return backend.write_zeroes(s.offset, s.length, s.zero); });
        break;
    case member::cache:
        if constexpr (has_cache<B>)
            return visit([&] { return backend.cache(s.offset, s.length); });
        break;
    case member::extents: {
        auto index = s.index;
        if constexpr (has_extents<B>) {
            if (index-- == 0)
                return visit([&] { return backend.extents(s.offset, s.length, *c.extents); });
        }
        if constexpr (has_meta_contexts<B>)
            return visit(
                [&] { return backend.context_extents(index, s.offset, s.length, *c.extents); });
        break;
    }
    case member::handle:
        break;
    }
    return visit([] { return std::make_error_code(std::errc::invalid_argument); });
}

/// How a backend is called: what `lock()` gives is held during each single call of a member, none of
/// which goes past `size()`, and no write that we make up ourselves is longer than `largest_write()`.
/// This one is no guard at all.
struct unguarded {
    [[nodiscard]] std::monostate lock() const noexcept { return {}; }
    [[nodiscard]] std::uint64_t size() const noexcept { return std::uint64_t(-1); }
    [[nodiscard]] std::size_t largest_write() const noexcept { return std::size_t(-1); }
};

/// What becomes of a step whose place a resize has cut off since its request was admitted.
[[nodiscard]] inline failure cut_off() noexcept
{
    return std::make_error_code(std::errc::no_space_on_device);
}

/// One call of a member, guarded.
template <class Guard, class F>
[[nodiscard]] failure call(const Guard& guard, const step& s, F&& member) noexcept
{
    return outcome_of([&]() -> failure {
        [[maybe_unused]] const auto lock = guard.lock();
        return inside(s, guard.size()) ? outcome_of(member) : cut_off();
    });
}

/// Makes one call, guarded.
template <class B, class Guard>
[[nodiscard]] failure make(B& backend, const step& s, const request_data& c,
                           const Guard& guard) noexcept
{
    if constexpr (has_handle<B>) {
        if (s.what == step::member::handle) {
            clear_unless_filled<B>(c.data);
            nbd::call whole{*c.request, c.payload, c.data};
            auto said = call(guard, s, [&] { return backend.handle(whole); });
            return said ? said : failure{whole.result()};
        }
    }
    return visit_member(backend, s, c, [&](auto&& member) { return call(guard, s, member); });
}

/// What becomes of a step that is not taken, because nobody waits for it any more.
[[nodiscard]] inline failure given_up() noexcept
{
    return std::error_code{ESHUTDOWN, std::generic_category()};
}

/// Makes calls of a plan, of any kind, until there are none left (true), or until others should have their
/// turn (false). Before each partial call, `over(length)` tells whether the request is to be given up.
template <class B, class Plan, class Guard, class Over>
[[nodiscard]] bool make_some(B& backend, Plan& p, const request_data& c, const Guard& guard,
                             Over&& over)
{
    for (std::uint64_t done = 0; const auto s = p.next();) {
        if (s->partial) {
            if (done >= zeroes_at_a_time)
                return false;
            done += s->length;
            if (over(s->length)) {
                p.take(given_up());
                continue;
            }
        }
        p.take(make(backend, *s, c, guard));
    }
    return true;
}
/// Makes all the calls of a plan.
template <class B, class Plan, class Guard>
void make_all(B& backend, Plan& p, const request_data& c, const Guard& guard)
{
    while (!make_some(backend, p, c, guard, [](std::uint64_t) { return false; })) {
    }
}

/// A READ into memory of ours; `to` is as long as the request.
template <class B, class Guard = unguarded>
[[nodiscard]] failure read(B& backend, const protocol::request& r, std::span<std::byte> to,
                           const Guard& guard = {}) noexcept
{
    return make(backend,
                {.what = has_handle<B> ? step::member::handle : step::member::read,
                 .offset = r.offset,
                 .length = r.length},
                {.request = &r, .data = to}, guard);
}

/// Carries out a request whose reply has no data: everything but READ and DISC. It was admitted.
template <class B, class Guard = unguarded>
[[nodiscard]] failure perform(B& backend, const protocol::request& r,
                              std::span<const std::byte> payload, const Guard& guard = {}) noexcept
{
    plan<B> p{r, guard.largest_write()};
    make_all(backend, p, {.request = &r, .payload = payload}, guard);
    return p.result();
}

}  // namespace nbd::transmission
