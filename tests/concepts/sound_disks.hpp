// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

// Names of a program for its own types. The programs compile with -Wshadow: no parameter of the
// library has one of them.
using executor = int;
using error = int;
using size = int;
using offset = int;
using request = int;
using client = int;

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
