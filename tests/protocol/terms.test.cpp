// SPDX-License-Identifier: MIT
// The rules of "Size constraints" (P75, P76).
#include "catch.hpp"
#include <nbd/protocol/terms.hpp>

using nbd::protocol::block_sizes;
using nbd::protocol::valid;

static_assert(block_sizes{} == block_sizes{1, 4096, 32 << 20} && valid(block_sizes{}));

// minimum: a power of two, at most 65536
static_assert(valid({65536, 65536, 65536}) && valid({512, 512, 512}) && valid({2, 512, 512}));
static_assert(!valid({0, 4096, 65536}) && !valid({3, 4096, 65536}));
static_assert(!valid({131072, 131072, 131072}) && !valid({0xffffffff, 0xffffffff, 0xffffffff}));
// preferred: a power of two, at least 512 and at least the minimum
static_assert(!valid({1, 256, 65536}) && !valid({1, 0, 65536}) && !valid({1, 1536, 65536}));
static_assert(!valid({4096, 512, 65536}) && valid({4096, 4096, 65536}));
static_assert(valid({1, 1U << 31, 0xffffffff}));
// maximum: at least the preferred size; need not be a power of two; all ones = no limit
static_assert(!valid({1, 4096, 4095}) && !valid({1, 4096, 0}) && valid({1, 4096, 4096}));
static_assert(valid({1, 4096, 5000}) && valid({1, 4096, 0xffffffff}));

constexpr nbd::protocol::export_terms terms{.size = 10, .flags = 0x0005, .blocks = {}};
static_assert(terms.has(1) && terms.has(4) && terms.has(6) && !terms.has(2) && !terms.has(0));
static_assert(nbd::protocol::export_terms{}.blocks == block_sizes{});

TEST_CASE("protocol/terms: a minimum is valid exactly if it is one of 17 powers of two (P76)")
{
    int good = 0;
    for (std::uint32_t minimum = 0; minimum <= 200'000; ++minimum)
        good += valid({minimum, 1 << 17, 1 << 17}) ? 1 : 0;
    CHECK(good == 17);
}

TEST_CASE("protocol/terms: a preferred size is a power of two (P76)")
{
    for (const std::uint32_t preferred : {0U, 513U, 1536U, 4097U, 0xffffffffU})
        CHECK_FALSE(valid({1, preferred, 0xffffffff}));
    for (const std::uint32_t preferred : {512U, 4096U, 1U << 31})
        CHECK(valid({1, preferred, 0xffffffff}));
}
