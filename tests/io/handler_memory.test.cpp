// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "grid/allocation_count.hpp"
#include <nbd/io/handler_memory.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <utility>

using memory = nbd::io::handler_memory;

TEST_CASE(
    "io/handler_memory: a handler's memory serves one allocation at a time; others use the heap")
{
    memory place;
    memory::allocator<int> ints{place};
    auto before = grid::allocations();
    auto* const first = ints.allocate(3);
    CHECK(grid::allocations() == before);
    memory::allocator<double> doubles{ints};  // of another type, with the same memory
    auto* const second = doubles.allocate(2);
    CHECK(grid::allocations() == before + 1);
    first[2] = 5;
    second[1] = 7;
    CHECK(first[2] == 5);
    // Memory from the heap returns there, and the handler's memory stays in use.
    doubles.deallocate(second, 2);
    auto* const third = ints.allocate(1);
    CHECK(grid::allocations() == before + 2);
    ints.deallocate(third, 1);
    ints.deallocate(first, 3);
    auto* const fourth = doubles.allocate(1);
    CHECK(grid::allocations() == before + 2);
    doubles.deallocate(fourth, 1);
}

TEST_CASE("io/handler_memory: an allocation that is too large for the memory uses the heap")
{
    memory place;
    struct large {
        std::byte bytes[4096];
    };
    const auto before = grid::allocations();
    memory::allocator<large> much{place};
    auto* const p = much.allocate(1);
    p->bytes[4095] = std::byte{1};
    CHECK(grid::allocations() == before + 1);
    // The handler's memory is still free for an allocation that fits, to the last byte.
    memory::allocator<std::byte> bytes{place};
    auto* const fits = bytes.allocate(256);
    fits[255] = std::byte{1};
    CHECK(grid::allocations() == before + 1);
    bytes.deallocate(fits, 256);
    much.deallocate(p, 1);
}

TEST_CASE("io/handler_memory: memory in use outlives its owner")
{
    std::optional<memory> place{std::in_place};
    memory::allocator<std::byte> bytes{*place};
    auto* const p = bytes.allocate(256);
    place.reset();
    p[255] = std::byte{1};  // AddressSanitizer sees it, if it was freed
    bytes.deallocate(p, 256);
}

TEST_CASE("io/handler_memory: allocators are equal if they share memory")
{
    memory one;
    memory other;
    CHECK(memory::allocator<int>{one} == memory::allocator<double>{one});
    CHECK_FALSE(memory::allocator<int>{one} == memory::allocator<int>{other});
}
