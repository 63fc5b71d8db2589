// SPDX-License-Identifier: MIT
// The calls of a BLOCK_STATUS, and its reply byte by byte.
#include "catch.hpp"
#include "support/bytes.hpp"
#include "support/perform.hpp"
#include <nbd/transmission/execution.hpp>
#include <nbd/transmission/status_plan.hpp>

#include <array>
#include <optional>
#include <string>
#include <vector>

using namespace nbd_test;
using namespace nbd::protocol;
using nbd::extent;
using nbd::transmission::backend_call;
namespace cf = command_flag;

namespace {

struct allocating {
    std::uint64_t size() const { return 1 << 20; }
    void read(std::uint64_t, std::span<std::byte>) {}
    void extents(std::uint64_t, std::uint64_t length, nbd::extent_list& to) { to.add(length, 3); }
};
using plan = nbd::transmission::status_plan<allocating>;
using found = std::vector<std::vector<extent>>;

const std::error_code eio = std::make_error_code(std::errc::io_error);
const std::array<selected_context, 2> both{{{.id = 1, .index = 0}, {.id = 3, .index = 2}}};

constexpr export_terms terms{.size = 1 << 20,
                             .flags = transmission_flag::block_status_payload,
                             .blocks = {},
                             .block_status = true};

constexpr nbd::protocol::request asking(std::uint64_t offset, std::uint64_t length,
                                        std::uint16_t flags = 0)
{
    return {.flags = flags,
            .command = command::block_status,
            .cookie = 0x0102030405060708,
            .offset = offset,
            .length = length};
}
/// The payload form: the effect length, and ids.
bytes naming(std::uint64_t length, const std::vector<std::uint32_t>& ids)
{
    auto all = big(length);
    for (const auto id : ids)
        all = all + big(id);
    return all;
}
nbd::protocol::request with_payload(std::uint64_t offset, const bytes& payload)
{
    auto r = asking(offset, payload.size(), cf::payload_len);
    r.extended = true;
    return r;
}

/// Runs a plan that was begun; each call adds the next extents of `what`.
std::string play(plan& p, const found& what)
{
    std::string story;
    std::size_t calls = 0;
    while (const auto s = p.next()) {
        REQUIRE(s->what == backend_call::member::extents);
        REQUIRE(calls < what.size());
        story += (story.empty() ? "" : ", ") + std::to_string(s->index) + ": "
            + std::to_string(s->offset) + '+' + std::to_string(s->length);
        for (const auto& e : what[calls])
            p.list().add(e.length, e.flags);
        ++calls;
        p.completed({});
    }
    return story;
}
bytes leading(const char* flags_type, std::uint32_t length)
{
    return hex("668e33ef") + hex(flags_type) + hex("0102030405060708") + big(length);
}

}  // namespace

TEST_CASE("transmission/status_plan: a call for each context, and a chunk for each call (P56)")
{
    plan p;
    CHECK_FALSE(p.begin(asking(4096, 8192), terms, both, reply_style::structured, {}, 100));
    CHECK(play(p, {{{4096, 0}, {4096, 3}}, {{8192, 7}}}) == "0: 4096+8192, 2: 4096+8192");
    CHECK_FALSE(p.result());
    CHECK(shown(p.reply())
          == shown(leading("00000005", 20) + hex("00000001 00001000 00000000 00001000 00000003")
                   + leading("00010005", 12) + hex("00000003 00002000 00000007")));
}

TEST_CASE("transmission/status_plan: one context is one chunk, which is the last")
{
    plan p;
    CHECK_FALSE(
        p.begin(asking(0, 512), terms, std::span{both}.first(1), reply_style::structured, {}, 100));
    CHECK(play(p, {{{512, 2}}}) == "0: 0+512");
    CHECK(shown(p.reply()) == shown(leading("00010005", 12) + hex("00000001 00000200 00000002")));
}

TEST_CASE("transmission/status_plan: with extended headers all fields are wide, with a count of "
          "descriptors (P56)")
{
    plan p;
    CHECK_FALSE(p.begin(asking(0x200, 1ULL << 33), {.size = 1ULL << 40, .blocks = {}},
                        std::span{both}.first(1), reply_style::extended, {}, 100));
    CHECK(play(p, {{{1ULL << 32, 0}, {1ULL << 32, 1ULL << 40}}}) == "0: 512+8589934592");
    CHECK(shown(p.reply())
          == shown(hex("6e8a278c 0001 0006 0102030405060708 0000000000000200 0000000000000028")
                   + hex("00000001 00000002")
                   + hex("0000000100000000 0000000000000000 0000000100000000 0000010000000000")));
}

TEST_CASE("transmission/status_plan: REQ_ONE is one extent, and so is a limit of 0")
{
    plan p;
    for (const std::uint16_t flag : {cf::req_one, std::uint16_t{0}}) {
        CHECK_FALSE(p.begin(asking(0, 8192, flag), terms, std::span{both}.first(1),
                            reply_style::structured, {}, flag != 0 ? 100 : 0));
        std::ignore = play(p, {{{4096, 0}, {4096, 3}}});
        CHECK(shown(p.reply())
              == shown(leading("00010005", 12) + hex("00000001 00001000 00000000")));
    }
}

TEST_CASE("transmission/status_plan: the number of extents of each context is limited")
{
    plan p;
    std::vector<extent> many;
    for (std::uint64_t i = 0; i < 100; ++i)
        many.push_back({1, i});
    CHECK_FALSE(p.begin(asking(0, 100), terms, both, reply_style::structured, {}, 7));
    std::ignore = play(p, {many, many});
    CHECK(p.reply().size() == 2 * (20 + 4 + 7 * 8));
}

TEST_CASE("transmission/status_plan: no more extents than the maximum payload holds (P56)")
{
    plan p;
    std::vector<extent> many;
    for (std::uint64_t i = 0; i < 100; ++i)
        many.push_back({1, i});
    auto small = terms;
    small.blocks = {1, 512, 512};
    CHECK_FALSE(p.begin(asking(0, 100), small, both, reply_style::structured, {}, 1000));
    std::ignore = play(p, {many, many});
    CHECK(p.reply().size() == 2 * (20 + 4 + 512));
    CHECK_FALSE(p.begin(asking(0, 100), small, both, reply_style::extended, {}, 1000));
    std::ignore = play(p, {many, many});
    CHECK(p.reply().size() == 2 * (32 + 8 + 512));

    // Alignment of mixed blocks makes more extents.
    small.blocks = {512, 512, 512};
    many.clear();
    for (std::uint64_t i = 0; i < 100; ++i)
        many.push_back({768, 1 + i % 2});
    CHECK_FALSE(p.begin(asking(0, 76'800), small, both, reply_style::structured, {}, 1000));
    std::ignore = play(p, {many, many});
    CHECK(p.reply().size() == 2 * (20 + 4 + 512));
}

TEST_CASE("transmission/status_plan: descriptors are aligned to the export's blocks (P66)")
{
    auto coarse = terms;
    coarse.blocks = {4096, 4096, 1 << 20};
    plan p;
    const std::vector<extent> mixed{{2048, 3}, {6144, 2}};
    CHECK_FALSE(p.begin(asking(0, 8192), coarse, both, reply_style::structured, {}, 100));
    std::ignore = play(p, {mixed, mixed});
    // base:allocation: the bits of all parts; other contexts: the bits of any part.
    CHECK(shown(p.reply())
          == shown(leading("00000005", 12) + hex("00000001 00002000 00000002")
                   + leading("00010005", 20)
                   + hex("00000003 00001000 00000003 00001000 00000002")));
}

TEST_CASE("transmission/status_plan: a failed context ends the plan, and its failure is the result")
{
    plan p;
    CHECK_FALSE(p.begin(asking(0, 512), terms, both, reply_style::structured, {}, 100));
    p.list().add(512, 0);
    p.completed({});
    CHECK(p.next()->index == 2);
    p.completed({eio, "no idea"});
    CHECK_FALSE(p.next());
    CHECK(p.result().code == eio);
    CHECK(p.result().text == "no idea");
    // The next request starts without them.
    CHECK_FALSE(p.begin(asking(0, 512), terms, both, reply_style::structured, {}, 100));
    CHECK_FALSE(p.result());
    CHECK(p.reply().empty());
    CHECK(play(p, {{{512, 0}}, {{512, 0}}}) == "0: 0+512, 2: 0+512");
    CHECK(p.reply().size() == 2 * (20 + 12));
}

TEST_CASE("transmission/status_plan: no extent from the backend is a failure (B12)")
{
    plan p;
    CHECK_FALSE(p.begin(asking(0, 512), terms, both, reply_style::structured, {}, 100));
    p.list().add(0, 3);
    p.completed({});
    CHECK_FALSE(p.next());
    CHECK(p.result().code == eio);
    CHECK_FALSE(p.result().text.empty());
    // The extents of one context do not count for another one.
    CHECK_FALSE(p.begin(asking(0, 512), terms, both, reply_style::structured, {}, 100));
    p.list().add(512, 3);
    p.completed({});
    p.completed({});
    CHECK(p.result().code == eio);
}

TEST_CASE("transmission/status_plan: a payload selects contexts and the range (P66)")
{
    plan p;
    const auto one = naming(0x100000, {3});
    CHECK_FALSE(p.begin(with_payload(0, one), terms, both, reply_style::extended, one, 100));
    CHECK(play(p, {{{0x100000, 7}}}) == "2: 0+1048576");
    CHECK(shown(p.reply())
          == shown(hex("6e8a278c 0001 0006 0102030405060708 0000000000000000 0000000000000018")
                   + hex("00000003 00000001 0000000000100000 0000000000000007")));
    // In any order; the reply is in the order of the contexts.
    const auto two = naming(512, {3, 1});
    CHECK_FALSE(p.begin(with_payload(4096, two), terms, both, reply_style::extended, two, 100));
    CHECK(play(p, {{{512, 0}}, {{512, 0}}}) == "0: 4096+512, 2: 4096+512");
}

TEST_CASE("transmission/status_plan: a malformed payload, or one with an id that was not selected, "
          "is refused")
{
    plan p;
    const auto refused = [&](const bytes& payload) {
        const auto why =
            p.begin(with_payload(0, payload), terms, both, reply_style::extended, payload, 100);
        CHECK_FALSE(p.next());  // no call is made
        if (why) {
            CHECK_FALSE(why->text.empty());
        }
        return why ? std::optional{why->value} : std::nullopt;
    };
    CHECK(refused(naming(512, {})) == error_value::einval);
    CHECK(refused(naming(512, {2})) == error_value::einval);
    CHECK(refused(naming(512, {1, 2})) == error_value::einval);
    CHECK(refused(naming(512, {1, 3, 4})) == error_value::einval);
    CHECK(refused(naming(512, {1, 1})) == error_value::einval);
    CHECK(refused(hex("00000000000002")) == error_value::einval);
    CHECK(refused({}) == error_value::einval);
    // The range in the payload is checked as well.
    CHECK(refused(naming(0, {1})) == error_value::einval);
    CHECK(refused(naming((1 << 20) + 1, {1})) == error_value::einval);
    CHECK(refused(naming(~std::uint64_t{0}, {1})) == error_value::einval);
    // The next request is not affected.
    CHECK_FALSE(p.begin(asking(0, 512), terms, both, reply_style::extended, {}, 100));
    CHECK(play(p, {{{512, 0}}, {{512, 0}}}) == "0: 0+512, 2: 0+512");
}

TEST_CASE("transmission/status_plan: a misaligned range in a payload is refused")
{
    auto coarse = terms;
    coarse.blocks = {4096, 4096, 1 << 20};
    plan p;
    const auto payload = naming(4096 + 512, {1});
    const auto why =
        p.begin(with_payload(0, payload), coarse, both, reply_style::extended, payload, 100);
    REQUIRE(why);
    CHECK(why->value == error_value::einval);
}

TEST_CASE("transmission/status_plan: a plan without a request has no calls")
{
    plan p;
    CHECK_FALSE(p.next());
    CHECK(p.reply().empty());
}

namespace {
/// A backend with `handle` and extents.
struct handling_and_telling {
    std::uint64_t size() const { return 1 << 20; }
    void handle(nbd::call& c) { c.reply(); }
    void extents(std::uint64_t, std::uint64_t length, nbd::extent_list& to) { to.add(length, 3); }
};
}  // namespace

TEST_CASE("transmission/status_plan: a backend with `handle` is asked for its extents")
{
    handling_and_telling disk;
    nbd::transmission::status_plan<handling_and_telling> p;
    const auto r = asking(0, 512);
    CHECK_FALSE(p.begin(r, terms, std::span{both}.first(1), reply_style::structured, {}, 100));
    nbd_test::make_all(disk, p, {.request = &r, .extents = &p.list()}, nbd_test::unguarded{});
    CHECK_FALSE(p.result());
    CHECK(p.reply().size() == 20 + 12);
}
