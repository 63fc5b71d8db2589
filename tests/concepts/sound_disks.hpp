// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

// Backends without mistakes, for programs that add one.

using u64 = std::uint64_t;
using to = std::span<std::byte>;
using from = std::span<const std::byte>;

struct readable {
    u64 size() const { return 0; }
    void read(u64, to) {}
};
struct writable : readable {
    void write(u64, from) {}
};
struct lender : writable {
    static constexpr auto concurrency = nbd::concurrency::parallel;
};
struct caller {
    u64 size() const { return 0; }
    void async_read(u64, to, nbd::completion done) { done(); }
};
