// SPDX-License-Identifier: MIT
// The calls of a READ that leaves out holes, without making them.
#include "catch.hpp"
#include "support/perform.hpp"
#include <nbd/transmission/execution.hpp>
#include <nbd/transmission/read_plan.hpp>
#include <nbd/vocabulary/extent_list.hpp>

#include <array>
#include <optional>
#include <string>
#include <vector>

using namespace nbd::protocol;
using nbd::extent;
using nbd::transmission::backend_call;

namespace {

struct bare {
    std::uint64_t size() const { return 1 << 20; }
    void read(std::uint64_t, std::span<std::byte>) {}
};
struct holey : bare {
    void extents(std::uint64_t, std::uint64_t, nbd::extent_list&) {}
};
struct handling {
    std::uint64_t size() const { return 1 << 20; }
    void handle(nbd::call&) {}
};
template <class B>
using read_plan = nbd::transmission::read_plan<B>;

const std::error_code eio = std::make_error_code(std::errc::io_error);
constexpr std::uint64_t data = 0;
constexpr std::uint64_t zero = state_flag::hole | state_flag::zero;

constexpr request reading(std::uint64_t offset, std::uint64_t length)
{
    return {.command = command::read, .cookie = 7, .offset = offset, .length = length};
}
std::string shown(const backend_call& s)
{
    const auto place = ' ' + std::to_string(s.offset) + '+' + std::to_string(s.length);
    if (s.what == backend_call::member::read)
        return "read" + place;
    if (s.what == backend_call::member::extents)
        return "extents " + std::to_string(s.index) + place;
    if (s.what == backend_call::member::handle)
        return "handle" + place;
    return "?";
}
/// Runs a plan that was begun, with these extents and a failing read, counted from 0.
template <class B>
std::string play(read_plan<B>& p, const std::vector<extent>& found = {},
                 std::optional<int> failing = {}, const nbd::failure& failure = eio)
{
    std::string story;
    int reads = 0;
    for (int calls = 0;; ++calls) {
        REQUIRE(calls < 1000);
        const auto s = p.next();
        if (!s)
            return story;
        story += (story.empty() ? "" : ", ") + shown(*s);
        if (s->what == backend_call::member::extents) {
            for (const auto& e : found)
                if (!p.list().add(e.length, e.flags))
                    break;
            p.completed({});
        } else {
            p.completed(nbd::failure{failing == reads++ ? failure : nbd::failure{}});
        }
    }
}
std::string holes_of(const std::vector<extent>& found, std::uint64_t offset, std::uint64_t length)
{
    read_plan<holey> p;
    p.begin(reading(offset, length), true);
    auto story = play(p, found);
    CHECK_FALSE(p.result());
    return story;
}
std::vector<extent> pieces(const read_plan<holey>& p)
{
    return {p.pieces().begin(), p.pieces().end()};
}

}  // namespace

TEST_CASE("transmission/read_plan: a READ is one call")
{
    read_plan<bare> p;
    p.begin(reading(512, 100'000), true);  // the backend has no extents
    CHECK(play(p) == "read 512+100000");
    CHECK_FALSE(p.result());
    CHECK_FALSE(p.has_holes());

    read_plan<holey> dense;
    dense.begin(reading(512, 100'000), false);  // holes are not left out here
    CHECK(play(dense) == "read 512+100000");
    CHECK_FALSE(dense.has_holes());

    read_plan<handling> whole;
    whole.begin(reading(512, 100'000), true);
    CHECK(play(whole) == "handle 512+100000");
}

TEST_CASE("transmission/read_plan: a READ of length 0 and a plan without a request have no calls")
{
    read_plan<holey> p;
    CHECK_FALSE(p.next());
    CHECK_FALSE(p.has_holes());
    p.begin(reading(512, 0), false);
    CHECK_FALSE(p.next());
    CHECK_FALSE(p.result());
    p.begin(reading(0, 0), false);
    CHECK_FALSE(p.next());
}

TEST_CASE("transmission/read_plan: a READ may have the maximum length")
{
    read_plan<bare> p;
    const auto far = std::uint64_t{1} << 62;
    p.begin(reading(far, std::uint64_t{1} << 40), true);
    CHECK(play(p) == "read 4611686018427387904+1099511627776");
}

TEST_CASE("transmission/read_plan: only the pieces between holes are read")
{
    CHECK(holes_of({{100, data}, {200, zero}, {300, data}}, 1000, 600)
          == "extents 0 1000+600, read 1000+100, read 1300+300");
    CHECK(holes_of({{100, zero}, {500, data}}, 1000, 600) == "extents 0 1000+600, read 1100+500");
    CHECK(holes_of({{500, data}, {100, zero}}, 1000, 600) == "extents 0 1000+600, read 1000+500");
    CHECK(holes_of({{600, zero}}, 1000, 600) == "extents 0 1000+600");
    CHECK(holes_of({{600, data}}, 1000, 600) == "extents 0 1000+600, read 1000+600");
    CHECK(holes_of({{1, zero}, {1, data}, {1, zero}}, 0, 3) == "extents 0 0+3, read 1+1");
}

TEST_CASE("transmission/read_plan: a range with the status zero is left out, allocated or not")
{
    CHECK(holes_of({{100, state_flag::zero}, {100, state_flag::hole}}, 0, 200)
          == "extents 0 0+200, read 100+100");
    // Consecutive zero extents of both kinds are left out.
    CHECK(holes_of({{100, state_flag::zero}, {100, zero}, {100, data}}, 0, 300)
          == "extents 0 0+300, read 200+100");
}

TEST_CASE("transmission/read_plan: a range without an extent is read")
{
    CHECK(holes_of({{100, zero}}, 1000, 600) == "extents 0 1000+600, read 1100+500");
    CHECK(holes_of({{100, data}, {100, zero}}, 1000, 600)
          == "extents 0 1000+600, read 1000+100, read 1200+400");
    CHECK(holes_of({}, 1000, 600) == "extents 0 1000+600, read 1000+600");
    // Extents beyond the range are cut.
    CHECK(holes_of({{100, zero}, {1 << 30, data}}, 1000, 600)
          == "extents 0 1000+600, read 1100+500");
    CHECK(holes_of({{1 << 30, zero}}, 1000, 600) == "extents 0 1000+600");
}

TEST_CASE(
    "transmission/read_plan: the number of pieces is limited, and the rest is read as a whole")
{
    constexpr auto most = read_plan<holey>::most_extents;
    std::vector<extent> found;
    for (std::size_t i = 0; i < most + 10; ++i)
        found.push_back({10, i % 2 == 0 ? zero : data});
    read_plan<holey> p;
    p.begin(reading(0, 10'000), true);
    const auto story = play(p, found);
    CHECK(p.pieces().size() == most);
    CHECK(story.starts_with("extents 0 0+10000, read 10+10, read 30+10, "));
    const auto told = std::to_string(most * 10);
    const auto rest = std::to_string(10'000 - most * 10);
    CHECK(story.ends_with(", read " + told + '+' + rest));
}

TEST_CASE("transmission/read_plan: if extents fails, everything is read")
{
    read_plan<holey> p;
    p.begin(reading(1000, 600), true);
    REQUIRE(p.next()->what == backend_call::member::extents);
    p.list().add(100, zero);  // extents before an error are ignored
    p.completed(eio);
    CHECK(play(p) == "read 1000+600");
    CHECK_FALSE(p.result());
    CHECK_FALSE(p.has_holes());
    CHECK(p.pieces().empty());
}

TEST_CASE("transmission/read_plan: a READ keeps to the minimum block size")
{
    read_plan<holey> p;
    p.begin(reading(1024, 2048), true, 512);
    CHECK(play(p, {{512, zero}, {512, data}, {1024, zero}})
          == "extents 0 1024+2048, read 1536+512");
    p.begin(reading(1024, 2048), true, 512);
    CHECK(play(p, {{700, zero}, {324, data}, {1024, zero}})
          == "extents 0 1024+2048, read 1024+2048");
    CHECK_FALSE(p.has_holes());
}

TEST_CASE("transmission/read_plan: a failed piece is the last, and the failure has its offset")
{
    const std::vector<extent> found{
        {100, data}, {200, zero}, {100, data}, {100, zero}, {100, data}};
    read_plan<holey> p;
    p.begin(reading(1000, 600), true);
    CHECK(play(p, found, 1) == "extents 0 1000+600, read 1000+100, read 1300+100");
    CHECK(p.result().code == eio);
    CHECK(p.result().offset == std::uint64_t{1300});
    CHECK_FALSE(p.next());

    // An offset from the backend takes precedence.
    p.begin(reading(1000, 600), true);
    std::ignore = play(p, found, 2, {eio, "a text", 1555});
    CHECK(p.result().offset == std::uint64_t{1555});
    CHECK(p.result().text == "a text");
}

TEST_CASE("transmission/read_plan: the failure of a READ in one piece is the backend's")
{
    read_plan<holey> p;
    p.begin(reading(1000, 600), false);
    std::ignore = play(p, {}, 0);
    CHECK(p.result().code == eio);
    CHECK_FALSE(p.result().offset);
    p.begin(reading(1000, 600), true);
    std::ignore = play(p, {{600, data}}, 0);
    CHECK(p.result().code == eio);
    CHECK_FALSE(p.result().offset);
    CHECK_FALSE(p.next());
}

TEST_CASE("transmission/read_plan: the pieces are available for the reply")
{
    read_plan<holey> p;
    p.begin(reading(1000, 600), true);
    CHECK(play(p, {{100, data}, {200, zero}})
          == "extents 0 1000+600, read 1000+100, read 1300+300");
    CHECK(pieces(p) == std::vector<extent>{{100, data}, {200, zero}});
    CHECK(p.has_holes());
    p.begin(reading(1000, 600), true);
    std::ignore = play(p, {{600, data}});
    CHECK_FALSE(p.has_holes());
    CHECK(read_plan<holey>::zero({1, zero}));
    CHECK_FALSE(read_plan<holey>::zero({1, state_flag::hole}));
}

TEST_CASE("transmission/read_plan: a plan can be reused")
{
    read_plan<holey> p;
    p.begin(reading(1000, 600), true);
    std::ignore = play(p, {{100, zero}, {500, data}}, 0);
    REQUIRE(p.result());
    p.begin(reading(0, 50), false);
    CHECK_FALSE(p.result());
    CHECK_FALSE(p.has_holes());
    CHECK(play(p) == "read 0+50");
    // Begun and not ended, as for a client that was disconnected.
    p.begin(reading(1000, 600), true);
    std::ignore = p.next();
    p.begin(reading(2000, 600), true);
    CHECK(play(p, {{100, data}, {200, zero}})
          == "extents 0 2000+600, read 2000+100, read 2300+300");
    p.begin(reading(0, 0), false);
    CHECK_FALSE(p.next());
    CHECK(p.pieces().empty());
}

namespace {
/// A backend with `handle` and extents.
struct handling_and_telling {
    int handled = 0;
    std::uint64_t size() const { return 1 << 20; }
    void handle(nbd::call& c)
    {
        ++handled;
        c.sent(c.space().size());
    }
    void extents(std::uint64_t, std::uint64_t length, nbd::extent_list& to) { to.add(length, 0); }
};
}  // namespace

TEST_CASE("transmission/read_plan: a backend with `handle` gets a READ in one call")
{
    handling_and_telling disk;
    read_plan<handling_and_telling> p;
    const auto r = reading(0, 64);
    p.begin(r, true);
    std::array<std::byte, 64> to{};
    nbd_test::make_all(disk, p, {.request = &r, .data = to, .extents = &p.list()},
                       nbd_test::unguarded{});
    CHECK_FALSE(p.result());
    CHECK(disk.handled == 1);
}
