// SPDX-License-Identifier: MIT
// The calls of a request, without making them.
#include "catch.hpp"
#include "support/recording.hpp"
#include <nbd/transmission/plan.hpp>

#include <string>
#include <utility>
#include <vector>

using namespace nbd_test;
using namespace nbd::protocol;
using nbd::protocol::request;
using nbd::transmission::backend_call;
using nbd::transmission::plan;
using nbd::transmission::zero_block;
namespace cf = command_flag;

namespace {

using plain = with_write<recording>;
using flushing = with_flush<plain>;
using native = with_fua_write<recording>;
using native_flushing = with_flush<native>;
struct handling {
    std::uint64_t size() const { return 1 << 20; }
    void handle(nbd::call&) {}
};

const std::error_code eio = std::make_error_code(std::errc::io_error);
const std::error_code enospc = std::make_error_code(std::errc::no_space_on_device);
const std::error_code enotsup = std::make_error_code(std::errc::not_supported);
const std::error_code eopnotsupp = std::make_error_code(std::errc::operation_not_supported);

constexpr std::uint64_t most = 1 << 30;

constexpr request asking(command c, std::uint64_t offset, std::uint64_t length,
                         std::uint16_t flags = 0)
{
    return {.flags = flags, .command = c, .cookie = 7, .offset = offset, .length = length};
}

std::string shown(const backend_call& s)
{
    using member = backend_call::member;
    const auto name = [&s]() -> std::string {
        switch (s.what) {
        case member::read:
            return "read";
        case member::write:
            return "write";
        case member::write_block:
            return "block";
        case member::flush:
            return "flush";
        case member::trim:
            return "trim";
        case member::write_zeroes:
            return "zero";
        case member::cache:
            return "cache";
        case member::extents:
            return "extents";
        case member::handle:
            return "handle";
        }
        return "?";
    };
    if (s.what == member::flush)
        return name();
    return name() + (s.fua ? "!" : "") + (s.zero.no_hole ? " no_hole" : "")
        + (s.zero.fast ? " fast" : "") + ' ' + std::to_string(s.offset) + '+'
        + std::to_string(s.length);
}

struct told {
    std::string story;
    std::error_code result;
};
/// Runs a plan with these outcomes of its calls, and success for later ones.
template <class B>
told play(const request& r, std::vector<std::error_code> outcomes = {},
          std::uint64_t largest = most)
{
    plan<B> p{r, largest};
    told t;
    std::size_t calls = 0;
    while (const auto s = p.next()) {
        REQUIRE(shown(*s) == shown(*p.next()));  // next() changes nothing
        t.story += (t.story.empty() ? "" : ", ") + shown(*s);
        p.completed(calls < outcomes.size() ? outcomes[calls] : std::error_code{});
        REQUIRE(++calls < 1000);
    }
    REQUIRE(calls >= outcomes.size());
    t.result = p.result().code;
    return t;
}
template <class B>
std::string story(const request& r)
{
    const auto t = play<B>(r);
    CHECK_FALSE(t.result);
    return t.story;
}

}  // namespace

TEST_CASE("transmission/plan: a command is one call of its member")
{
    using all = with_cache<with_zeroes<with_trim<flushing>>>;
    CHECK(story<all>(asking(command::write, 512, 1024)) == "write 512+1024");
    CHECK(story<all>(asking(command::trim, 1, 1 << 28)) == "trim 1+268435456");
    CHECK(story<all>(asking(command::cache, 3, 4)) == "cache 3+4");
    CHECK(story<all>(asking(command::write_zeroes, 5, 6)) == "zero 5+6");
    CHECK(story<all>(asking(command::flush, 0, 0)) == "flush");
}

TEST_CASE("transmission/plan: a long range becomes several calls, between which it can end (P65)")
{
    using all = with_cache<with_zeroes<with_trim<flushing>>>;
    constexpr std::uint64_t gib = 1ULL << 30;
    const std::pair<command, std::string> commands[] = {
        {command::trim, "trim"}, {command::write_zeroes, "zero"}, {command::cache, "cache"}};
    for (const auto& [c, name] : commands) {
        CAPTURE(name);
        // Each call ends at a multiple of 256 MiB, so that no page or sector is divided.
        CHECK(story<all>(asking(c, 512, 600 << 20))
              == name + " 512+268434944, " + name + " 268435456+268435456, " + name
                  + " 536870912+92275200");
        CHECK(play<all>(asking(c, 0, gib), {{}, enospc}).story
              == name + " 0+268435456, " + name + " 268435456+268435456");
        CHECK(play<all>(asking(c, 0, gib), {{}, enospc}).result == enospc);
        for (plan<all> p{asking(c, 0, gib), most}; const auto s = p.next(); p.completed({}))
            CHECK(s->partial);
        CHECK_FALSE(plan<all>{asking(c, 0, 1 << 28), most}.next()->partial);
        CHECK(story<handling>(asking(c, 0, gib)) == "handle 0+1073741824");
    }
    CHECK(story<all>(asking(command::trim, 0, 1ULL << 29, cf::fua))
          == "trim 0+268435456, trim 268435456+268435456, flush");
    // After a change the reply must not be ENOTSUP, so the rest is written.
    const auto fast = asking(command::write_zeroes, 0, 1ULL << 29, cf::fast_zero);
    CHECK(story<all>(fast) == "zero fast 0+268435456, zero 268435456+268435456");
    CHECK(play<all>(fast, {enotsup}).result == enotsup);
    plan<all> p{fast, most};
    p.completed({});
    p.completed(enotsup);
    REQUIRE(p.next());
    CHECK(shown(*p.next()) == "block 268435456+65536");
}

TEST_CASE("transmission/plan: a failed call ends the plan and is its result")
{
    using all = with_cache<with_zeroes<with_trim<flushing>>>;
    for (const auto c : {command::write, command::trim, command::cache, command::write_zeroes}) {
        const auto t = play<all>(asking(c, 0, 512, cf::fua), {enospc});
        CHECK(t.story.find(',') == std::string::npos);  // no flush
        CHECK(t.result == enospc);
    }
    CHECK(play<all>(asking(command::flush, 0, 0), {eio}).result == eio);
    // ENOTSUP has a special meaning only for write_zeroes.
    CHECK(play<all>(asking(command::trim, 0, 512), {enotsup}).result == enotsup);
    CHECK(play<all>(asking(command::write, 0, 512), {enotsup}).result == enotsup);
}

TEST_CASE("transmission/plan: the failure keeps its text and its offset")
{
    plan<plain> p{asking(command::write, 0, 512), most};
    p.completed({eio, "the disk is on fire", 17});
    CHECK_FALSE(p.next());
    CHECK(p.result().code == eio);
    CHECK(p.result().text == "the disk is on fire");
    CHECK(p.result().offset == std::uint64_t{17});
}

TEST_CASE("transmission/plan: a request of length 0 has no calls, except FLUSH (P68)")
{
    using all = with_cache<with_zeroes<with_trim<flushing>>>;
    for (const std::uint16_t flags : {std::uint16_t{0}, cf::fua})
        for (const auto c :
             {command::write, command::trim, command::cache, command::write_zeroes}) {
            CHECK(story<all>(asking(c, 512, 0, flags)).empty());
            CHECK(story<handling>(asking(c, 512, 0, flags)).empty());
            CHECK(story<native>(asking(c, 512, 0, flags)).empty());
        }
    CHECK(story<flushing>(asking(command::write_zeroes, 0, 0, cf::fast_zero)).empty());
    CHECK(story<handling>(asking(command::flush, 0, 0)) == "handle 0+0");
}

TEST_CASE("transmission/plan: FUA is a flush after the write, or the write's own, not both (P60)")
{
    const auto r = asking(command::write, 0, 512, cf::fua);
    CHECK(story<flushing>(r) == "write! 0+512, flush");
    CHECK(story<native>(r) == "write! 0+512");
    CHECK(story<native_flushing>(r) == "write! 0+512");
    CHECK(story<native_flushing>(asking(command::write, 0, 512)) == "write 0+512");
    CHECK(play<flushing>(r, {{}, eio}).result == eio);
    CHECK(play<flushing>(r, {eio}).story == "write! 0+512");
    // FLUSH with FUA is one flush.
    CHECK(story<flushing>(asking(command::flush, 0, 0, cf::fua)) == "flush");
}

TEST_CASE("transmission/plan: TRIM and WRITE_ZEROES with FUA are followed by a flush")
{
    using all = with_cache<with_zeroes<with_trim<native_flushing>>>;
    CHECK(story<all>(asking(command::trim, 0, 512, cf::fua)) == "trim 0+512, flush");
    CHECK(story<all>(asking(command::write_zeroes, 0, 512, cf::fua)) == "zero 0+512, flush");
    CHECK(play<all>(asking(command::trim, 0, 512, cf::fua), {{}, eio}).result == eio);
    CHECK(play<all>(asking(command::write_zeroes, 0, 512, cf::fua), {{}, eio}).result == eio);
}

TEST_CASE("transmission/plan: TRIM that cannot be made durable makes no call and succeeds (P63)")
{
    CHECK(story<with_trim<native>>(asking(command::trim, 0, 512, cf::fua)).empty());
    CHECK(story<with_trim<native>>(asking(command::trim, 0, 512)) == "trim 0+512");
}

TEST_CASE("transmission/plan: zeroes are written in blocks, and made durable at the end (P65)")
{
    const auto r = asking(command::write_zeroes, 100, 2 * 65536 + 1);
    CHECK(story<plain>(r) == "block 100+65536, block 65636+65536, block 131172+1");
    auto durable = r;
    durable.flags = cf::fua;
    CHECK(story<flushing>(durable)
          == "block! 100+65536, block! 65636+65536, block! 131172+1, flush");
    // A write's own FUA covers only its block, so each block has it, and no flush is needed.
    CHECK(story<native>(durable) == "block! 100+65536, block! 65636+65536, block! 131172+1");
    CHECK(story<native_flushing>(durable)
          == "block! 100+65536, block! 65636+65536, block! 131172+1");
    CHECK(play<flushing>(durable, {{}, {}, {}, eio}).result == eio);
}

TEST_CASE("transmission/plan: the blocks of zeroes cover exactly the range")
{
    const auto blocks = [](std::uint64_t length) {
        return story<plain>(asking(command::write_zeroes, 0, length));
    };
    CHECK(blocks(1) == "block 0+1");
    CHECK(blocks(65535) == "block 0+65535");
    CHECK(blocks(65536) == "block 0+65536");
    CHECK(blocks(65537) == "block 0+65536, block 65536+1");
    CHECK(blocks(131072) == "block 0+65536, block 65536+65536");
}

TEST_CASE(
    "transmission/plan: no block is longer than the export's largest write or the block of zeroes")
{
    const auto r = asking(command::write_zeroes, 0, 10'000);
    CHECK(play<plain>(r, {}, 4096).story == "block 0+4096, block 4096+4096, block 8192+1808");
    for (const std::uint64_t largest : {std::uint64_t{512}, std::uint64_t{65536}, most}) {
        plan<plain> p{asking(command::write_zeroes, 0, 1ULL << 40), largest};
        REQUIRE(p.next());
        CHECK(p.next()->length == std::min<std::uint64_t>(largest, zero_block.size()));
    }
    CHECK(nbd::transmission::largest_write({.blocks = {4096, 4096, 1 << 20}}) == 1 << 20);
    CHECK(nbd::transmission::largest_write({.blocks = {4096, 4096, 10'000}}) == 8192);
    CHECK(nbd::transmission::largest_write({.blocks = {1, 4096, 4097}}) == 4097);
}

TEST_CASE("transmission/plan: a failed block is the last, and no flush follows")
{
    const auto r = asking(command::write_zeroes, 0, 4 * 65536, cf::fua);
    const auto t = play<flushing>(r, {{}, enospc});
    CHECK(t.story == "block! 0+65536, block! 65536+65536");
    CHECK(t.result == enospc);
    // "not supported" from a block does not restart the plan.
    const auto again = play<flushing>(r, {{}, enotsup});
    CHECK(again.story == "block! 0+65536, block! 65536+65536");
    CHECK(again.result == enotsup);
}

TEST_CASE("transmission/plan: zeroes with FUA and no flush need the write's own FUA")
{
    using disk = with_zeroes<native>;
    CHECK(story<disk>(asking(command::write_zeroes, 0, 65537, cf::fua))
          == "block! 0+65536, block! 65536+1");
    CHECK(story<disk>(asking(command::write_zeroes, 0, 65537)) == "zero 0+65537");
    const auto t = play<disk>(asking(command::write_zeroes, 0, 512, cf::fua | cf::fast_zero));
    CHECK(t.story.empty());
    CHECK(t.result == enotsup);
}

TEST_CASE("transmission/plan: ENOTSUP from write_zeroes means to write all zeroes (P65, P87)")
{
    using disk = with_zeroes<flushing>;
    for (const auto& error : {enotsup, eopnotsupp}) {
        const auto t = play<disk>(asking(command::write_zeroes, 100, 65537, cf::no_hole), {error});
        CHECK(t.story == "zero no_hole 100+65537, block 100+65536, block 65636+1");
        CHECK_FALSE(t.result);
        const auto durable = play<disk>(asking(command::write_zeroes, 0, 512, cf::fua), {error});
        CHECK(durable.story == "zero 0+512, block! 0+512, flush");
        CHECK_FALSE(durable.result);
        CHECK(play<disk>(asking(command::write_zeroes, 0, 512), {error, enospc}).result == enospc);
    }
    CHECK(play<disk>(asking(command::write_zeroes, 0, 512), {eio}).story == "zero 0+512");
}

TEST_CASE("transmission/plan: FAST_ZERO is never a slow write, it is ENOTSUP (P65)")
{
    const auto r = asking(command::write_zeroes, 0, 512, cf::fast_zero);
    const auto none = play<flushing>(r);
    CHECK(none.story.empty());
    CHECK(none.result == enotsup);
    for (const auto& error : {enotsup, eopnotsupp}) {
        const auto t = play<with_zeroes<flushing>>(r, {error});
        CHECK(t.story == "zero fast 0+512");
        CHECK(t.result == enotsup);
    }
    CHECK(story<with_zeroes<flushing>>(
              asking(command::write_zeroes, 0, 512, cf::fast_zero | cf::no_hole | cf::fua))
          == "zero no_hole fast 0+512, flush");
}

TEST_CASE(
    "transmission/plan: a backend with `handle` gets each request in one call, with its flags")
{
    for (const auto c : {command::write, command::trim, command::cache, command::write_zeroes}) {
        const auto t = play<handling>(asking(c, 512, 200'000, cf::fua | cf::fast_zero));
        CHECK(t.story.starts_with("handle"));
        CHECK(t.story.find(',') == std::string::npos);
        CHECK(t.story.ends_with(" 512+200000"));
        CHECK_FALSE(t.result);
        // Its ENOTSUP is the result.
        CHECK(play<handling>(asking(c, 0, 512), {enotsup}).result == enotsup);
    }
}

TEST_CASE("transmission/plan: a plan can be copied in the middle")
{
    plan<flushing> p{asking(command::write_zeroes, 0, 3 * 65536, cf::fua), most};
    p.completed({});
    auto other = p;
    p.completed(eio);
    CHECK_FALSE(p.next());
    CHECK(other.next()->offset == 65536);
    CHECK_FALSE(other.result());
}
