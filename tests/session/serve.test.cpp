// SPDX-License-Identifier: MIT
// Whole sessions, cut anywhere and sent in any pieces: the same replies, or a clean end.
#include "catch.hpp"
#include "support/session.hpp"

#include <algorithm>
#include <iterator>

using namespace nbd_test;
using nbd::errc;

namespace {

constexpr std::size_t disk_size = 200'000;
constexpr std::uint32_t large = 70'000;

bytes part(const bytes& all, std::size_t offset, std::size_t n)
{
    const auto at = all.begin() + static_cast<std::ptrdiff_t>(offset);
    return {at, at + static_cast<std::ptrdiff_t>(n)};
}

/// A message of a client, the reply, and the backend's calls.
struct exchange {
    bytes said;
    bytes answer;
    std::string call{};  ///< of copying_disk
};
std::vector<exchange> whole_session()
{
    const auto disk = pattern(disk_size);
    // No request overlaps one in flight, because lent memory is sent with its content at that time.
    return {
        {{}, hex("4e42444d41474943 49484156454f5054 0003")},
        {client_flags(), {}},
        {option(3),
         option_reply(3, 2,
                      big(4U)
                          + text("disk"
                                 "disk"))
             + option_reply(3, 1)},
        {option(99, pattern(5)), option_reply(99, 0x80000001, text("the option is not supported"))},
        {option(6, info_data("disk", {3})),
         option_reply(6, 3, hex("0000 0000000000030d40 006d"))
             + option_reply(6, 3, hex("0003 00000001 00001000 02000000")) + option_reply(6, 1)},
        {option(7, info_data("disk")),
         option_reply(7, 3, hex("0000 0000000000030d40 006d")) + option_reply(7, 1)},
        {request(0, 1, 3, 5), simple_reply(0, 1) + part(disk, 3, 5), "read 3+5"},
        {request(1, 2, 100, 9) + pattern(9, 2), simple_reply(0, 2), "write 100+9"},
        {request(0, 3, 100'000, large), simple_reply(0, 3) + part(disk, 100'000, large),
         "read 100000+70000"},
        {request(3, 4, 0, 0), simple_reply(0, 4), "flush"},
        {request(1, 5, disk_size, 6) + pattern(6), simple_reply(28, 5)},
        {request(1, 6, 1000, large) + pattern(large, 3), simple_reply(0, 6), "write 1000+70000"},
        {request(4, 7, 0, 50, 1), simple_reply(0, 7), "trim 0+50, flush"},
        {request(0, 8, 998, 3),
         simple_reply(0, 8) + part(disk, 998, 2) + part(pattern(large, 3), 0, 1), "read 998+3"},
        {request(77, 9, 0, 1), simple_reply(22, 9)},
        {request(2, 10, 0, 0), {}},
    };
}
struct told {
    bytes said;
    bytes answer;
    std::string calls;
};
/// All bytes sent, all replies and all calls, at the end of each message.
const std::vector<told>& milestones()
{
    static const auto all = [] {
        std::vector<told> each{{}};
        for (const auto& e : whole_session()) {
            const auto& before = each.back();
            each.push_back(
                {before.said + e.said, before.answer + e.answer,
                 before.calls + (before.calls.empty() || e.call.empty() ? "" : ", ") + e.call});
        }
        return each;
    }();
    return all;
}
/// The last milestone that the first `n` bytes reach.
const told& reached(std::size_t n)
{
    const auto& all = milestones();
    return *std::prev(
        std::upper_bound(all.begin(), all.end(), n,
                         [](std::size_t bytes_, const told& t) { return bytes_ < t.said.size(); }));
}

}  // namespace

TEMPLATE_TEST_CASE("session/serve: the same answers at any pace, also byte by byte (N-30)", "",
                   copying_disk, lending_disk, reluctant_disk)
{
    const auto& session = milestones().back();
    for (const pace p : {pace{}, pace{.read = 1}, pace{.read = 3, .write = 5}, pace{.write = 101},
                         pace{.read = 29, .write = 1000}, pace{.read = 65'535, .write = 65'537}}) {
        disk_state state{disk_size};
        one_client<TestType> client{TestType{state}};
        client.serve(session.said, p);
        CAPTURE(p.read, p.write);
        REQUIRE(client.stream->heard().size() == session.answer.size());
        REQUIRE((client.stream->heard() == session.answer));
        REQUIRE_FALSE(client.ended());
        if (std::is_same_v<TestType, copying_disk>)
            REQUIRE(state.story() == session.calls);
    }
}

TEMPLATE_TEST_CASE("session/serve: a client that disconnects after any byte has got the replies to "
                   "its complete requests (R11, N-30)",
                   "", copying_disk, lending_disk)
{
    const auto& everything = milestones().back().said;
    const auto whole = everything.size();
    const auto before = pattern(disk_size);
    // After every byte; inside the large payload only after some.
    std::size_t payload_ends = whole;
    for (const auto& t : milestones())
        if (t.calls.ends_with("write 1000+70000"))
            payload_ends = std::min(payload_ends, t.said.size());
    const auto payload_begins = payload_ends - large;
    for (std::size_t n = 0; n<whole; n += n> payload_begins && n + 30 < payload_ends
             ? std::min<std::size_t>(2999, payload_ends - n - 29)
             : 1) {
        const auto& expected = reached(n);
        disk_state state{disk_size};
        one_client<TestType> client{TestType{state}};
        client.serve(part(everything, 0, n));
        CAPTURE(n);
        REQUIRE((client.stream->heard() == expected.answer));
        // No part of a small WRITE reaches the backend; a large one may leave a prefix where it
        // lends.
        if (std::is_same_v<TestType, copying_disk>)
            REQUIRE(state.story() == expected.calls);
        if (expected.calls.find("write 100+9") == std::string::npos)
            REQUIRE(std::equal(before.begin(), before.begin() + 1000, state.content.begin()));
        REQUIRE(std::equal(before.begin() + 1000 + large, before.end(),
                           state.content.begin() + 1000 + large));
    }
}

TEMPLATE_TEST_CASE(
    "session/serve: a stream that breaks at any operation ends the session with its error", "",
    copying_disk, lending_disk)
{
    const auto& session = milestones().back();
    for (const pace p : {pace{}, pace{.read = 100, .write = 1000}}) {
        disk_state untouched{disk_size};
        one_client<TestType> counted{TestType{untouched}};
        const auto operations = counted.serve(session.said, p).operations();
        REQUIRE(operations > 10);
        for (std::size_t at = 0; at < operations; ++at) {
            disk_state state{disk_size};
            one_client<TestType> client{TestType{state}};
            auto broken = p;
            broken.fails_at = at;
            client.serve(session.said, broken);
            CAPTURE(at);
            const std::error_code reset{
                boost::asio::error::make_error_code(boost::asio::error::connection_reset)};
            // A disconnect before the first byte from the client is clean.
            REQUIRE(client.ended() == (at < 2 ? std::error_code{} : reset));
            REQUIRE(client.stream->operations() == at + 1);
            const auto heard = client.stream->heard();
            REQUIRE((heard == part(session.answer, 0, heard.size())));
        }
    }
}

TEST_CASE("session/serve: GO twice: the second one is not a request (O20)")
{
    disk_state state{disk_size};
    one_client<copying_disk> client{copying_disk{state}};
    client.serve(client_flags() + option(7, info_data("disk")) + option(7, info_data("disk", {3})));
    CHECK(client.ended() == errc::bad_request_magic);
    CHECK(state.calls.empty());
}

TEST_CASE(
    "session/serve: EXPORT_NAME leads to the same transmission, with and without zeroes (P28)")
{
    for (const std::uint32_t flags : {0U, 2U, 3U}) {
        disk_state state{disk_size};
        one_client<copying_disk> client{copying_disk{state}};
        client.serve(client_flags(flags) + option(1, text("disk")) + request(0, 1, 5, 2));
        CHECK(client.stream->heard().size() == 18U + 10 + ((flags & 2) != 0 ? 0U : 124U) + 16 + 2);
        CHECK(state.story() == "read 5+2");
    }
}
