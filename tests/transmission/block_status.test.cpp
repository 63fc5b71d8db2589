// SPDX-License-Identifier: MIT
// BLOCK_STATUS: the extents of backends, true or not, and their reply.
#include "catch.hpp"
#include "support/bytes.hpp"
#include "support/perform.hpp"
#include "support/printed.hpp"
#include <nbd/transmission/block_status.hpp>
#include <nbd/transmission/execution.hpp>
#include <nbd/transmission/status_plan.hpp>

#include <array>
#include <functional>
#include <stdexcept>
#include <vector>

using namespace nbd_test;
using nbd::extent;
using nbd::extent_list;
using nbd::protocol::reply_style;
using nbd::transmission::align;
using nbd::transmission::append_descriptors;
using nbd::transmission::contexts_of;
using nbd::transmission::decode_status_payload;

namespace {

using extents = std::vector<extent>;
constexpr auto most = ~std::uint64_t{0};

struct bare {
    std::uint64_t size() const { return 1 << 20; }
    void read(std::uint64_t, std::span<std::byte>) {}
};
/// Adds the extents that its test chooses.
struct telling : bare {
    std::function<nbd::failure(std::uint64_t, std::uint64_t, extent_list&)> tell;
    nbd::failure extents(std::uint64_t offset, std::uint64_t length, extent_list& to)
    {
        return tell(offset, length, to);
    }
};
const std::array<nbd::meta_context, 2> own{{{"x-a:one"}, {.name = "x-a:two", .wide = true}}};
/// Contexts without extents, and with them.
struct contextual : bare {
    std::span<const nbd::meta_context> meta_contexts() const { return own; }
    void context_extents(std::size_t index, std::uint64_t offset, std::uint64_t length,
                         extent_list& to)
    {
        to.add(length, 100 + index + offset);
    }
};
struct both : contextual {
    void extents(std::uint64_t, std::uint64_t length, extent_list& to) { to.add(length, 3); }
};

nbd::failure status(auto& disk, std::size_t index, std::uint64_t offset, std::uint64_t length,
                    extent_list& to)
{
    const nbd::protocol::request r{.offset = offset, .length = length};
    return nbd::transmission::make(disk,
                                   {.what = nbd::transmission::backend_call::member::extents,
                                    .offset = offset,
                                    .length = length,
                                    .index = index},
                                   {.request = &r, .extents = &to}, nbd_test::unguarded{});
}
extents told(auto& disk, std::uint64_t offset, std::uint64_t length, std::size_t limit = 1000,
             std::size_t index = 0)
{
    extent_list to;
    to.begin(length, limit);
    const auto failed = status(disk, index, offset, length, to);
    CAPTURE(failed.code, failed.text);
    CHECK_FALSE(failed);
    return {to.extents().begin(), to.extents().end()};
}
extents aligned(extents e, std::uint64_t block, bool allocation = true)
{
    align(e, block, allocation);
    return e;
}

}  // namespace

TEST_CASE("transmission/block_status: base:allocation is the first context of a backend with "
          "extents (P81)")
{
    CHECK(contexts_of(bare{}).empty());
    CHECK(contexts_of(telling{}).size() == 1);
    CHECK(contexts_of(telling{})[0].name == "base:allocation");
    const auto only_own = contexts_of(contextual{});
    REQUIRE(only_own.size() == 2);
    CHECK(only_own[0].name == "x-a:one");
    CHECK(only_own[1].wide);
    const auto all = contexts_of(both{});
    REQUIRE(all.size() == 3);
    CHECK(all[0].name == "base:allocation");
    CHECK(all[1].name == "x-a:one");
    CHECK(all[2].name == "x-a:two");
}

TEST_CASE("transmission/block_status: the context decides which member is called")
{
    both disk;
    CHECK(told(disk, 0, 512) == extents{{512, 3}});
    CHECK(told(disk, 1, 512, 10, 1) == extents{{512, 101}});
    CHECK(told(disk, 0, 512, 10, 2) == extents{{512, 101}});
    contextual without;
    CHECK(told(without, 0, 512, 10, 0) == extents{{512, 100}});
    bare none;
    extent_list to;
    to.begin(512, 1);
    CHECK(status(none, 0, 0, 512, to).code == std::errc::invalid_argument);
}

TEST_CASE("transmission/block_status: no extent from the backend is EIO (B12)")
{
    telling disk;
    for (const int liar : {0, 1}) {
        disk.tell = [liar](std::uint64_t, std::uint64_t, extent_list& l) -> nbd::failure {
            for (int i = 0; i < 1000 * liar; ++i)
                l.add(0, 3);
            return {};
        };
        nbd::transmission::status_plan<telling> plan;
        const nbd::protocol::selected_context selected{.id = 1, .index = 0};
        const nbd::protocol::request r{.command = nbd::protocol::command::block_status,
                                       .length = 512};
        CHECK_FALSE(plan.begin(r, {.size = 512, .blocks = {}}, {&selected, 1},
                               nbd::protocol::reply_style::structured, {}, 10));
        nbd_test::make_all(disk, plan, {.request = &r, .extents = &plan.list()},
                           nbd_test::unguarded{});
        CHECK(plan.result().code == std::errc::io_error);
        CHECK_FALSE(plan.result().text.empty());
    }
}

TEST_CASE("transmission/block_status: the backend's error or exception is the failure")
{
    telling disk;
    extent_list to;
    to.begin(512, 10);
    disk.tell = [](std::uint64_t, std::uint64_t, extent_list& l) -> nbd::failure {
        l.add(512, 0);
        return {std::make_error_code(std::errc::no_space_on_device), "a text", 7};
    };
    auto failed = status(disk, 0, 0, 512, to);
    CHECK(failed.code == std::errc::no_space_on_device);
    CHECK(failed.text == "a text");
    CHECK(failed.offset == std::uint64_t{7});
    disk.tell = [](std::uint64_t, std::uint64_t, extent_list&) -> nbd::failure {
        throw std::runtime_error{"thrown"};
    };
    failed = status(disk, 0, 0, 512, to);
    CHECK(failed);
    CHECK(failed.text == "thrown");
    disk.tell = [](std::uint64_t, std::uint64_t, extent_list&) -> nbd::failure { throw 1; };
    CHECK(status(disk, 0, 0, 512, to));
}

TEST_CASE("transmission/block_status: extents are cut to the range and to the limit (B12)")
{
    telling disk;
    disk.tell = [](std::uint64_t, std::uint64_t, extent_list& l) -> nbd::failure {
        l.add(most, 1);
        l.add(most, 2);
        return {};
    };
    CHECK(told(disk, 100, 512) == extents{{512, 1}});
    disk.tell = [](std::uint64_t, std::uint64_t, extent_list& l) -> nbd::failure {
        for (std::uint64_t i = 0; i < std::uint64_t{1} << 20; ++i)
            l.add(1, i & 1);
        return {};
    };
    const auto many = told(disk, 0, std::uint64_t{1} << 40, 131'072);
    CHECK(many.size() == 131'072);
    CHECK(told(disk, 0, 1000, 1) == extents{{1, 0}});
}

TEST_CASE("transmission/block_status: align() does not change aligned extents (P66)")
{
    CHECK(aligned({{4096, 0}, {8192, 3}, {4096, 1}}, 4096)
          == extents{{4096, 0}, {8192, 3}, {4096, 1}});
    CHECK(aligned({{512, 0}}, 512) == extents{{512, 0}});
    CHECK(aligned({{1ULL << 62, 3}}, 65536) == extents{{1ULL << 62, 3}});
}

TEST_CASE("transmission/block_status: a mixed block is a hole only if all of it is (P66, P84)")
{
    // half hole, half data: data, which is always safe
    CHECK(aligned({{2048, 3}, {2048, 0}}, 4096) == extents{{4096, 0}});
    CHECK(aligned({{2048, 0}, {2048, 3}}, 4096) == extents{{4096, 0}});
    // hole and zero, and only zero: zero
    CHECK(aligned({{2048, 3}, {2048, 2}}, 4096) == extents{{4096, 2}});
    // many parts: their common bits
    CHECK(aligned({{1, 3}, {1, 3}, {4094, 1}}, 4096) == extents{{4096, 1}});
    CHECK(aligned({{4096 + 100, 3}, {2 * 4096 - 100, 0}, {4096, 3}}, 4096)
          == extents{{4096, 3}, {2 * 4096, 0}, {4096, 3}});
}

TEST_CASE("transmission/block_status: in other contexts a mixed block has the bits of all parts")
{
    CHECK(aligned({{2048, 1}, {2048, 4}}, 4096, false) == extents{{4096, 5}});
    CHECK(aligned({{4095, 0}, {1, 1ULL << 63}}, 4096, false) == extents{{4096, 1ULL << 63}});
}

TEST_CASE("transmission/block_status: neighbours that become equal are merged (P66)")
{
    CHECK(aligned({{4096, 0}, {2048, 3}, {2048, 0}, {4096, 0}}, 4096) == extents{{3 * 4096, 0}});
}

TEST_CASE("transmission/block_status: an incomplete last block is left for the next request, "
          "unless it is the only one (P66)")
{
    CHECK(aligned({{4096, 3}, {100, 3}}, 4096) == extents{{4096, 3}});
    CHECK(aligned({{4096 + 1, 1}}, 4096) == extents{{4096, 1}});
    CHECK(aligned({{100, 3}}, 4096) == extents{{4096, 0}});
    CHECK(aligned({{100, 3}, {100, 1}}, 4096) == extents{{4096, 0}});
    CHECK(aligned({{100, 4}, {100, 1}}, 4096, false) == extents{{4096, 5}});
    CHECK(aligned({}, 4096).empty());
}

TEST_CASE(
    "transmission/block_status: align() returns whole blocks, not longer than before or one block")
{
    std::uint32_t x = 1;
    const auto next = [&x] { return x = x * 1664525 + 1013904223; };
    for (int round = 0; round < 2000; ++round) {
        const std::uint64_t block = std::uint64_t{1} << (next() >> 28);
        extents e;
        std::uint64_t length = 0;
        for (auto n = 1 + (next() >> 29); n != 0; --n) {
            e.push_back({1 + (next() >> 17), next() >> 30});
            length += e.back().length;
        }
        auto a = e;
        align(a, block, (round & 1) != 0);
        REQUIRE_FALSE(a.empty());
        std::uint64_t sum = 0;
        for (std::size_t i = 0; i < a.size(); ++i) {
            REQUIRE(a[i].length != 0);
            REQUIRE(a[i].length % block == 0);
            REQUIRE((i == 0 || a[i].flags != a[i - 1].flags));
            sum += a[i].length;
        }
        REQUIRE((sum == length / block * block || (length < block && sum == block)));
    }
}

TEST_CASE("transmission/block_status: descriptors in hex (P56)")
{
    bytes to = hex("ff");
    append_descriptors(to, extents{{0x10000, 3}, {0xffffffff, 0xfffffffe}},
                       reply_style::structured);
    CHECK(shown(to) == shown(hex("ff 00010000 00000003 ffffffff fffffffe")));
    to.clear();
    append_descriptors(to, extents{{0x0123456789abcdef, 0xfedcba9876543210}, {1, 0}},
                       reply_style::extended);
    CHECK(shown(to)
          == shown(hex("0123456789abcdef fedcba9876543210 0000000000000001 0000000000000000")));
    to.clear();
    append_descriptors(to, extents{}, reply_style::extended);
    CHECK(to.empty());
}

TEST_CASE("transmission/block_status: the payload form (P66)")
{
    const auto p = decode_status_payload(hex("0000000100000000 00000003 00000001"));
    REQUIRE(p);
    CHECK(p->length == 0x100000000);
    CHECK(p->ids == std::vector<std::uint32_t>{1, 3});
    const auto none = decode_status_payload(hex("0000000000000200"));
    REQUIRE(none);
    CHECK(none->ids.empty());

    // 8 + 4n, and no id twice
    const auto whole = hex("0000000100000000 00000003 00000001");
    for (const std::size_t n : {0U, 1U, 4U, 7U, 9U, 10U, 11U, 13U, 14U, 15U}) {
        CAPTURE(n);
        CHECK_FALSE(decode_status_payload(std::span{whole}.first(n)));
    }
    CHECK_FALSE(decode_status_payload(hex("0000000000000200 00000001 00000002 00000001")));
}
