// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/protocol/request.hpp>
#include <nbd/transmission/admission.hpp>
#include <nbd/transmission/plan.hpp>
#include <nbd/vocabulary/call.hpp>
#include <nbd/vocabulary/outcome_of.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <system_error>
#include <utility>

/// Makes the calls that a plan names. No exception of a backend leaves these functions.
namespace nbd::transmission {

/// The memory of a request for the calls of its plan.
struct request_data {
    const protocol::request* request = nullptr;
    std::span<const std::byte> payload{};  ///< of a WRITE
    std::span<std::byte> data{};           ///< of a READ; as long as the request
    extent_list* extents = nullptr;
};

/// Clears the data of a READ before the call, unless the backend promises to fill them. A backend
/// that reports success and fills less must not disclose old memory to a client.
template <class B>
void clear_unless_filled([[maybe_unused]] std::span<std::byte> data) noexcept
{
    if constexpr (!promises_fills_reads<B>)
        std::fill(data.begin(), data.end(), std::byte{0});
}

/// Passes to `visit` a function that calls the member named by `c`, and that returns what the
/// member returns. The function holds the arguments, for members that take them by reference. A
/// member that the backend lacks fails with EINVAL.
template <class B, class Visit>
decltype(auto) visit_member(B& backend, const backend_call& c, const request_data& d, Visit&& visit)
{
    using member = backend_call::member;
    [[maybe_unused]] const auto write = [&](std::span<const std::byte> data) {
        if constexpr (has_fua_write<B>)
            return visit([&backend, c, data, flags = write_flags{.fua = c.fua}] {
                return backend.write(c.offset, data, flags);
            });
        else if constexpr (has_plain_write<B>)
            return visit([&backend, c, data] { return backend.write(c.offset, data); });
    };
    switch (c.what) {
    case member::read:
        if constexpr (has_read<B>) {
            const auto at = static_cast<std::size_t>(c.offset - d.request->offset);
            const auto data = d.data.subspan(at, static_cast<std::size_t>(c.length));
            clear_unless_filled<B>(data);
            return visit([&backend, c, data] { return backend.read(c.offset, data); });
        }
        break;
    case member::write:
        if constexpr (has_write<B>)
            return write(d.payload);
        break;
    case member::write_block:
        if constexpr (has_write<B>)
            return write(std::span{zero_block}.first(static_cast<std::size_t>(c.length)));
        break;
    case member::flush:
        if constexpr (has_flush<B>)
            return visit([&backend] { return backend.flush(); });
        break;
    case member::trim:
        if constexpr (has_trim<B>)
            return visit([&backend, c] { return backend.trim(c.offset, c.length); });
        break;
    case member::write_zeroes:
        if constexpr (has_write_zeroes<B>)
            return visit(
                [&backend, c] { return backend.write_zeroes(c.offset, c.length, c.zero); });
        break;
    case member::cache:
        if constexpr (has_cache<B>)
            return visit([&backend, c] { return backend.cache(c.offset, c.length); });
        break;
    case member::extents: {
        auto index = c.index;
        if constexpr (has_extents<B>) {
            if (index-- == 0)
                return visit([&backend, c, to = d.extents] {
                    return backend.extents(c.offset, c.length, *to);
                });
        }
        if constexpr (has_meta_contexts<B>)
            return visit([&backend, index, c, to = d.extents] {
                return backend.context_extents(index, c.offset, c.length, *to);
            });
        break;
    }
    case member::handle:
        break;
    }
    return visit([] { return std::make_error_code(std::errc::invalid_argument); });
}

/// The outcome of a call whose range is past the end of the export, because the export was resized
/// after the request was admitted.
[[nodiscard]] inline failure cut_off() noexcept
{
    return std::make_error_code(std::errc::no_space_on_device);
}

/// The outcome of a call that is not made because the server is stopping or the connection is
/// closed.
[[nodiscard]] inline failure given_up() noexcept
{
    return std::error_code{ESHUTDOWN, std::generic_category()};
}

/// Makes one call while it holds `guard.lock()`. *Returns* `cut_off()` for a range that ends after
/// `guard.size()`.
template <class Guard, class F>
[[nodiscard]] failure make_guarded(const Guard& guard, const backend_call& c, F&& member) noexcept
{
    return outcome_of([&]() -> failure {
        [[maybe_unused]] const auto lock = guard.lock();
        return inside(c, guard.size()) ? outcome_of(member) : cut_off();
    });
}

/// Makes one call of a backend whose members are synchronous.
template <class B, class Guard>
[[nodiscard]] failure make(B& backend, const backend_call& c, const request_data& d,
                           const Guard& guard) noexcept
{
    if constexpr (has_handle<B>) {
        if (c.what == backend_call::member::handle) {
            clear_unless_filled<B>(d.data);
            nbd::call whole{*d.request, d.payload, d.data};
            auto outcome = make_guarded(guard, c, [&] { return backend.handle(whole); });
            return outcome ? outcome : failure{whole.result()};
        }
    }
    return visit_member(backend, c, d,
                        [&](auto&& member) { return make_guarded(guard, c, member); });
}

/// Makes those calls of a plan that `read_now` can make, in order. *Returns* whether none is left.
template <class B, class Plan, class Data, class Guard>
[[nodiscard]] bool make_now(B& backend, Plan& p, Data&& data, const Guard& guard)
{
    while (const auto c = p.next()) {
        if (c->what != backend_call::member::read || !inside(*c, guard.size()))
            return false;
        const request_data d = data();
        const auto to = d.data.subspan(static_cast<std::size_t>(c->offset - d.request->offset),
                                       static_cast<std::size_t>(c->length));
        if (backend.read_now(c->offset, to) != to.size())
            return false;
        p.completed({});
    }
    return true;
}

/// Makes the calls of a plan, of any kind, until none is left.
/// - `data()` returns the request_data for the next call.
/// - `over(length)` is called before each partial call of that length; true abandons the request.
///
/// *Returns* false when other requests should use the thread first; call it again then.
template <class B, class Plan, class Data, class Guard, class Over>
[[nodiscard]] bool make_some(B& backend, Plan& p, Data&& data, const Guard& guard, Over&& over)
{
    for (std::uint64_t done = 0; const auto c = p.next();) {
        if (c->partial) {
            if (done >= zeroes_at_a_time)
                return false;
            done += c->length;
            if (over(c->length)) {
                p.completed(given_up());
                continue;
            }
        }
        p.completed(make(backend, *c, data(), guard));
    }
    return true;
}

}  // namespace nbd::transmission
