// SPDX-License-Identifier: MIT
// Memory that is allocated by writes and returned, counted by the kernel page by page.
#include "backend/memory_support.hpp"
#include "catch.hpp"
#include <nbd/backend/sparse_memory.hpp>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

using nbd::sparse_memory;
using nbd_test::resident;

namespace {

constexpr std::uint64_t page = 4096;
using offsets = std::vector<std::uint64_t>;
const auto is_zero = [](std::byte b) { return b == std::byte{0}; };
void fill(std::span<std::byte> memory)
{
    std::fill(memory.begin(), memory.end(), std::byte{0xff});
}

}  // namespace

TEST_CASE("backend/sparse_memory: reads as zero, and keeps what is written")
{
    sparse_memory memory{100'000};
    CHECK(memory.size() == 100'000);
    const auto all = memory.bytes(0, 100'000);
    CHECK(std::all_of(all.begin(), all.end(), is_zero));
    fill(memory.bytes(99'999, 1));
    CHECK(std::count(all.begin(), all.end(), std::byte{0xff}) == 1);
    CHECK(memory.bytes(99'999, 1)[0] == std::byte{0xff});
}

TEST_CASE("backend/sparse_memory: clearing and discarding are exact at their edges")
{
    const std::uint64_t size = 8 * page + 100;
    for (const bool keep : {false, true}) {
        for (const auto from : offsets{0, 1, 100, page - 1, page, page + 1}) {
            for (const auto length :
                 offsets{0, 1, 99, page - 1, page, page + 1, 3 * page, size - from}) {
                sparse_memory memory{size};
                if (!keep && memory.file() < 0)
                    NBD_SKIP("this system has no memfd");
                const auto all = memory.bytes(0, size);
                fill(all);
                if (keep)
                    memory.clear(from, length);
                else
                    REQUIRE_FALSE(memory.discard(from, length));
                const auto inside = all.subspan(from, length);
                CAPTURE(keep, from, length);
                REQUIRE(std::all_of(inside.begin(), inside.end(), is_zero));
                REQUIRE(static_cast<std::uint64_t>(std::count_if(all.begin(), all.end(), is_zero))
                        == length);
            }
        }
    }
}

TEST_CASE("backend/sparse_memory: discarded pages go back to the kernel, cleared ones do not")
{
    const std::uint64_t size = 64 << 20;
    sparse_memory memory{size};
    const auto* const at = memory.bytes(0, 1).data();
    if (resident(at) != 0)
        NBD_SKIP("the kernel backs fresh shared memory at once");
    fill(memory.bytes(0, size));
    REQUIRE(resident(at) >= size);
    memory.clear(0, size / 2);
    CHECK(resident(at) >= size);
    REQUIRE_FALSE(memory.discard(0, size / 2));
    CHECK(resident(at) <= size / 2 + (4 << 20));
    REQUIRE_FALSE(memory.discard(0, size));
    CHECK(resident(at) <= 4 << 20);
}

TEST_CASE("backend/sparse_memory: 1 TiB allocates only what is written")
{
    const std::uint64_t size = 1ULL << 40;
    std::optional<sparse_memory> memory;
    try {
        memory.emplace(size);
    } catch (const std::system_error& e) {
        NBD_SKIP(std::string{"no address space for 1 TiB: "} + e.code().message());
    }
    for (std::uint64_t i = 0; i < 16; ++i)
        fill(memory->bytes(i * (size / 16), 512));
    fill(memory->bytes(size - 1, 1));
    CHECK(memory->bytes(15 * (size / 16), 512)[511] == std::byte{0xff});
    CHECK(resident(memory->bytes(0, 1).data()) <= std::uint64_t{64} << 20);
    REQUIRE_FALSE(memory->discard(0, size));
    CHECK(is_zero(memory->bytes(15 * (size / 16), 1)[0]));
    CHECK(is_zero(memory->bytes(size - 1, 1)[0]));
    CHECK(resident(memory->bytes(0, 1).data()) <= 1 << 20);
}

TEST_CASE("backend/sparse_memory: an impossible size is an error at once")
{
    CHECK_THROWS_AS(sparse_memory{~std::uint64_t{0}}, std::system_error);
    CHECK_THROWS_AS(sparse_memory{1ULL << 63}, std::system_error);
    CHECK_THROWS_AS(sparse_memory{(1ULL << 63) - 1}, std::system_error);
}

TEST_CASE("backend/sparse_memory: size 0 is valid")
{
    sparse_memory memory{0};
    CHECK(memory.size() == 0);
    CHECK(memory.bytes(0, 0).empty());
    CHECK_FALSE(memory.discard(0, 0));
}

TEST_CASE("backend/sparse_memory: moves with its contents")
{
    sparse_memory one{page};
    fill(one.bytes(0, 10));
    sparse_memory two{std::move(one)};
    CHECK(two.size() == page);
    CHECK(two.bytes(9, 1)[0] == std::byte{0xff});
    sparse_memory three{1};
    three = std::move(two);
    CHECK(three.size() == page);
    CHECK(three.bytes(9, 1)[0] == std::byte{0xff});
    CHECK_FALSE(three.discard(0, page));
    CHECK(is_zero(three.bytes(9, 1)[0]));
}

TEST_CASE(
    "backend/sparse_memory: the content of a full huge page may move to one, and does not change")
{
    const std::uint64_t huge = 2 << 20;
    sparse_memory memory{2 * huge};
    const auto all = memory.bytes(0, 2 * huge);
    REQUIRE(reinterpret_cast<std::uintptr_t>(all.data()) % huge == 0);
    for (std::uint64_t at = 0; at < huge; at += 8)
        std::memcpy(all.data() + at, &at, 8);
    CHECK(memory.make_huge(0, huge));
    std::uint64_t wrong = 0;
    for (std::uint64_t at = 0; at < huge; at += 8)
        wrong += std::memcmp(all.data() + at, &at, 8) != 0;
    CHECK(wrong == 0);
    CHECK(is_zero(all[huge]));
    REQUIRE_FALSE(memory.discard(page, page));
    CHECK(is_zero(all[page + 1]));
    CHECK(all[2 * page + 1] == std::byte{0x20});
}
