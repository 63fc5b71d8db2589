// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/vocabulary/call.hpp>

#include <concepts>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace nbd {

/// A backend that is one callable: `f(nbd::call&)` gets each request with its command, flags,
/// cookie, offset and length, and answers it.
///
///     nbd::callback_backend disk{size, [](nbd::call& c) { ... c.reply(); }};
///
/// Every command is advertised; withhold those that the callable does not carry out
/// (export_settings::withhold, read_only).
/// *Errors*: an exception of the callable becomes an error reply.
/// *Thread safety*: by default, one call at a time for all clients. With `Concurrency` parallel,
/// the callable is called by the threads of all clients at the same time.
template <std::invocable<call&> F, nbd::concurrency Concurrency = nbd::concurrency::serialize_all>
class callback_backend final {
public:
    static constexpr nbd::concurrency concurrency = Concurrency;

    /// `size` in bytes.
    callback_backend(std::uint64_t size, F f) : size_{size}, f_{std::move(f)} {}

    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    decltype(auto) handle(call& c) { return f_(c); }

private:
    std::uint64_t size_;
    F f_;
};

}  // namespace nbd
