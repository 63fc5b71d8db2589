// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/vocabulary/call.hpp>

#include <concepts>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace nbd {

/// A disk that is one callable: `f(nbd::call&)` gets each request with its command, flags, cookie,
/// offset and length, and answers it. Every ability is advertised; what the callable does not do,
/// the export withholds (export_settings::withhold, read_only). What it throws becomes an error on
/// the wire.
///
///     nbd::callback_backend disk{size, [](nbd::call& c) { ... c.reply(); }};
///
/// Thread safety: by default one call at a time over all clients. With `Concurrency` parallel the
/// callable is called from the threads of all clients at once.
template <std::invocable<call&> F, nbd::concurrency Concurrency = nbd::concurrency::serialize_all>
class callback_backend {
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
