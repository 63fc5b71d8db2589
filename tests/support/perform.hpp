// SPDX-License-Identifier: MIT
// Makes all calls of a request, one after the other.
#pragma once

#include <nbd/transmission/execution.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <variant>

namespace nbd_test {

/// An export without a lock and with unlimited size.
struct unguarded {
    [[nodiscard]] std::monostate lock() const noexcept { return {}; }
    [[nodiscard]] std::uint64_t size() const noexcept { return std::uint64_t(-1); }
    [[nodiscard]] std::uint64_t largest_write() const noexcept { return std::uint64_t(-1); }
};

/// Makes all calls of a plan.
template <class B, class Plan, class Guard = unguarded>
void make_all(B& backend, Plan& p, const nbd::transmission::request_data& data,
              const Guard& guard = {})
{
    while (!nbd::transmission::make_some(
        backend, p, [&data] { return data; }, guard, [](std::uint64_t) { return false; })) {
    }
}

/// A READ; `to` is as long as the request.
template <class B, class Guard = unguarded>
[[nodiscard]] nbd::failure read(B& backend, const nbd::protocol::request& r,
                                std::span<std::byte> to, const Guard& guard = {})
{
    using member = nbd::transmission::backend_call::member;
    return nbd::transmission::make(backend,
                                   {.what = nbd::has_handle<B> ? member::handle : member::read,
                                    .offset = r.offset,
                                    .length = r.length},
                                   {.request = &r, .data = to}, guard);
}

/// An admitted request whose reply has no data.
template <class B, class Guard = unguarded>
[[nodiscard]] nbd::failure perform(B& backend, const nbd::protocol::request& r,
                                   std::span<const std::byte> payload, const Guard& guard = {})
{
    nbd::transmission::plan<B> p{r, guard.largest_write()};
    make_all(backend, p, {.request = &r, .payload = payload}, guard);
    return p.result();
}

}  // namespace nbd_test
