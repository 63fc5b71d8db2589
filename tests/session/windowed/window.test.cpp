// SPDX-License-Identifier: MIT
// Which requests may be in progress together, and the order of their replies.
#include "catch.hpp"
#include <nbd/session/windowed/window.hpp>

#include <cstdint>
#include <set>
#include <string>

using nbd::protocol::command;
using proto_request = nbd::protocol::request;

namespace {

/// Accepts `room` replies.
struct replies {
    int room = 1000;
    std::string said;
};
replies* outbox = nullptr;  ///< of the gathering in progress
struct fake_job {
    proto_request asked;
    int ended = 0;
    [[nodiscard]] const proto_request& request() const { return asked; }
    [[nodiscard]] bool fits() const { return outbox->room > 0; }
    void reserve() {}
    void answer()
    {
        --outbox->room;
        outbox->said += std::to_string(asked.cookie) + ' ';
    }
    void done() { ++ended; }
};
struct slot {
    fake_job job;
    slot* next = nullptr;
    bool under_way = false;
};
using window = nbd::session::window<slot>;

constexpr proto_request asking(command c, std::uint64_t cookie, std::uint64_t offset,
                               std::uint64_t length)
{
    return {.command = c, .cookie = cookie, .offset = offset, .length = length};
}
constexpr proto_request reading(std::uint64_t cookie, std::uint64_t length)
{
    return asking(command::read, cookie, 0, length);
}
slot& begin(window& w, const proto_request& r)
{
    REQUIRE(w.has_room_for(r));
    auto& s = w.occupy(r);
    REQUIRE(s.under_way);
    s.job.asked = r;
    return s;
}
std::string gathered(window& w, int room = 1000)
{
    replies to{.room = room, .said = {}};
    outbox = &to;
    w.gather();
    outbox = nullptr;
    return to.said;
}

}  // namespace

TEST_CASE("session/windowed/window: the number of requests is limited exactly")
{
    window w{3, 1 << 20, false};
    CHECK(w.empty());
    auto& first = begin(w, reading(1, 1));
    CHECK_FALSE(w.empty());
    begin(w, reading(2, 1));
    begin(w, reading(3, 1));
    CHECK_FALSE(w.has_room_for(reading(4, 1)));
    CHECK_FALSE(w.has_room_for(asking(command::flush, 4, 0, 0)));
    // A request counts until its reply has been sent.
    w.finished(first);
    CHECK_FALSE(w.has_room_for(reading(4, 1)));
    CHECK(gathered(w) == "1 ");
    CHECK_FALSE(w.has_room_for(reading(4, 1)));
    w.sent();
    CHECK(first.job.ended == 1);
    CHECK_FALSE(first.under_way);
    begin(w, reading(4, 1));
    CHECK_FALSE(w.has_room_for(reading(5, 1)));
}

TEST_CASE("session/windowed/window: RESIZE waits for all earlier requests, and later ones wait for "
          "RESIZE")
{
    window w{3, 1 << 20, false};
    const auto resize = asking(command::resize, 2, 4096, 0);
    auto& write = begin(w, asking(command::write, 1, 8192, 4096));
    CHECK_FALSE(w.has_room_for(resize));
    w.finished(write);
    CHECK(gathered(w) == "1 ");
    w.sent();
    auto& alone = begin(w, resize);
    CHECK_FALSE(w.has_room_for(reading(3, 1)));  // the new size is not known yet
    CHECK_FALSE(w.has_room_for(resize));
    w.finished(alone);
    CHECK(gathered(w) == "2 ");
    w.sent();
    begin(w, reading(3, 1));
    CHECK(w.has_room_for(reading(4, 1)));
}

TEST_CASE("session/windowed/window: a limit of 0 requests counts as 1")
{
    window w{0, GENERATE(0U, 1000U), true};
    auto& s = begin(w, reading(1, 100));
    CHECK_FALSE(w.has_room_for(reading(2, 0)));
    w.finished(s);
    CHECK(gathered(w) == "1 ");
    w.sent();
    CHECK(w.empty());
    begin(w, reading(2, 100));
}

TEST_CASE(
    "session/windowed/window: a BLOCK_STATUS is counted with the memory that its reply may need")
{
    window w{100, 1000, false, 400};
    const auto status = asking(command::block_status, 1, 0, 1 << 30);
    auto& first = begin(w, status);
    begin(w, status);
    CHECK_FALSE(w.has_room_for(status));
    CHECK(w.has_room_for(reading(3, 200)));
    auto one = status;
    one.flags = nbd::protocol::command_flag::req_one;
    CHECK(w.has_room_for(one));
    w.finished(first);
    CHECK(gathered(w) == "1 ");
    w.sent();
    CHECK(w.has_room_for(status));
}

TEST_CASE("session/windowed/window: the number of bytes is limited exactly")
{
    window w{100, 1000, false};
    auto& first = begin(w, reading(1, 400));
    begin(w, asking(command::write, 2, 0, 500));
    CHECK(w.has_room_for(reading(3, 100)));
    CHECK_FALSE(w.has_room_for(reading(3, 101)));
    CHECK_FALSE(w.has_room_for(asking(command::write, 3, 0, 101)));
    begin(w, reading(3, 100));
    CHECK_FALSE(w.has_room_for(reading(4, 1)));
    // A request without data counts no bytes, whatever its length.
    CHECK(w.has_room_for(asking(command::trim, 4, 0, 1 << 30)));
    CHECK(w.has_room_for(asking(command::write_zeroes, 4, 0, 1 << 30)));
    begin(w, asking(command::cache, 4, 0, 1 << 30));
    CHECK(w.has_room_for(reading(5, 0)));
    w.finished(first);
    std::ignore = gathered(w);
    w.sent();
    CHECK(w.has_room_for(reading(5, 400)));
    CHECK_FALSE(w.has_room_for(reading(5, 401)));
}

TEST_CASE("session/windowed/window: a request larger than the limit is admitted alone")
{
    window w{100, 1000, false};
    const auto large = reading(1, 5000);
    auto& small = begin(w, reading(2, 1));
    CHECK_FALSE(w.has_room_for(large));
    w.finished(small);
    std::ignore = gathered(w);
    w.sent();
    auto& s = begin(w, large);
    CHECK_FALSE(w.has_room_for(reading(3, 1)));
    CHECK_FALSE(w.has_room_for(large));
    w.finished(s);
    std::ignore = gathered(w);
    w.sent();
    begin(w, reading(3, 1000));
}

TEST_CASE("session/windowed/window: huge lengths do not wrap the count of bytes")
{
    // Refused requests need a slot for the reply, too, and their lengths were not checked.
    constexpr auto most = ~std::uint64_t{0};
    window w{100, 1000, true};
    auto& s = begin(w, reading(1, most));
    CHECK_FALSE(w.has_room_for(reading(2, most)));
    CHECK_FALSE(w.has_room_for(reading(2, 1)));
    w.finished(s);
    std::ignore = gathered(w);
    w.sent();
    begin(w, reading(2, 1000));
    CHECK_FALSE(w.has_room_for(reading(3, most)));
    CHECK_FALSE(w.has_room_for(reading(3, 1)));
}

TEST_CASE("session/windowed/window: extended requests count their payload")
{
    window w{100, 1000, false};
    auto write = asking(command::write, 1, 0, 600);
    write.extended = true;
    write.flags = nbd::protocol::command_flag::payload_len;
    begin(w, write);
    CHECK_FALSE(w.has_room_for(write));
    write.flags = 0;  // no payload
    CHECK(w.has_room_for(write));
}

TEST_CASE("session/windowed/window: replies are sent in the order of completion")
{
    window w{10, 1000, false};
    auto& a = begin(w, reading(1, 1));
    auto& b = begin(w, reading(2, 1));
    auto& c = begin(w, reading(3, 1));
    auto& d = begin(w, reading(4, 1));
    CHECK(gathered(w).empty());
    c.next = a.next = &d;  // `next` belongs to the code that makes the calls until then
    w.finished(c);
    w.finished(a);
    CHECK(gathered(w) == "3 1 ");
    CHECK(gathered(w).empty());  // each once
    w.finished(d);
    CHECK(gathered(w) == "4 ");
    w.sent();
    w.finished(b);
    CHECK(gathered(w) == "2 ");
    CHECK_FALSE(w.empty());
    w.sent();
    CHECK(w.empty());
    for (const auto* s : {&a, &b, &c, &d})
        CHECK(s->job.ended == 1);
}

TEST_CASE(
    "session/windowed/window: a reply that does not fit waits, and later ones do not overtake it")
{
    window w{10, 1000, false};
    for (std::uint64_t i = 1; i <= 5; ++i)
        w.finished(begin(w, reading(i, 1)));
    CHECK(gathered(w, 2) == "1 2 ");
    CHECK(gathered(w, 0).empty());
    w.sent();
    // Waiting replies stay in order, and new ones follow them.
    auto& s = begin(w, reading(6, 1));
    w.finished(s);
    CHECK(gathered(w, 2) == "3 4 ");
    w.sent();
    CHECK(gathered(w) == "5 6 ");
    w.sent();
    CHECK(w.empty());
    w.finished(begin(w, reading(7, 1)));
    CHECK(gathered(w) == "7 ");
}

TEST_CASE("session/windowed/window: a slot is freed once")
{
    window w{2, 10, false};
    auto& s = begin(w, reading(1, 10));
    w.finished(s);
    std::ignore = gathered(w);
    w.sent();
    w.sent();
    w.drop_replies();
    CHECK(s.job.ended == 1);
    CHECK(w.empty());
    auto& one = begin(w, reading(2, 5));
    auto& other = begin(w, reading(3, 5));
    CHECK(&one != &other);
    CHECK_FALSE(w.has_room_for(reading(4, 0)));
}

TEST_CASE("session/windowed/window: unsent replies are dropped, gathered or not")
{
    window w{10, 1000, false};
    auto& a = begin(w, reading(1, 100));
    auto& b = begin(w, reading(2, 100));
    auto& c = begin(w, reading(3, 100));
    w.finished(a);
    w.finished(b);
    CHECK(gathered(w, 1) == "1 ");
    w.drop_replies();
    CHECK(a.job.ended == 1);
    CHECK(b.job.ended == 1);
    CHECK(c.job.ended == 0);
    CHECK_FALSE(w.empty());
    CHECK(w.has_room_for(reading(4, 900)));
    CHECK_FALSE(w.has_room_for(reading(4, 901)));
    CHECK(gathered(w).empty());
    w.finished(c);
    w.drop_replies();
    CHECK(c.job.ended == 1);
    CHECK(w.empty());
    // The window stays usable.
    w.finished(begin(w, reading(5, 1)));
    w.finished(begin(w, reading(6, 1)));
    CHECK(gathered(w) == "5 6 ");
}

TEST_CASE("session/windowed/window: slots are created once, do not move, and are all visited")
{
    window w{4, 1000, false};
    std::set<const slot*> used;
    std::uint64_t cookie = 0;
    for (int round = 0; round < 50; ++round) {
        slot* now[4];
        for (auto& s : now) {
            s = &begin(w, reading(++cookie, 1));
            used.insert(s);
        }
        for (const std::size_t i : {2U, 0U, 3U, 1U})
            w.finished(*now[i]);
        std::ignore = gathered(w);
        w.sent();
    }
    CHECK(used.size() == 4);
    std::set<const slot*> visited;
    w.for_each([&](slot& s) { visited.insert(&s); });
    CHECK(visited == used);
}

TEST_CASE("session/windowed/window: a request that overlaps a write waits for it, with "
          "serialize_overlaps")
{
    const auto may_follow = [](command first, std::uint64_t at, std::uint64_t n, command second,
                               std::uint64_t then, std::uint64_t m, bool serialize = true) {
        window w{10, 1 << 20, serialize};
        begin(w, asking(first, 1, at, n));
        const auto r = asking(second, 2, then, m);
        return w.has_room_for(r);
    };
    constexpr auto read = command::read;
    constexpr auto write = command::write;

    CHECK_FALSE(may_follow(write, 100, 100, write, 100, 100));
    CHECK_FALSE(may_follow(write, 100, 100, read, 100, 100));
    CHECK_FALSE(may_follow(read, 100, 100, write, 100, 100));
    CHECK(may_follow(read, 100, 100, read, 100, 100));

    // Overlaps of one byte at either end, and none.
    CHECK_FALSE(may_follow(write, 100, 100, write, 199, 100));
    CHECK(may_follow(write, 100, 100, write, 200, 100));
    CHECK_FALSE(may_follow(write, 100, 100, write, 1, 100));
    CHECK(may_follow(write, 100, 100, write, 0, 100));
    CHECK(may_follow(read, 100, 100, write, 200, 1));
    CHECK_FALSE(may_follow(read, 100, 100, write, 199, 1));
    // One range inside the other.
    CHECK_FALSE(may_follow(write, 100, 100, read, 150, 1));
    CHECK_FALSE(may_follow(write, 150, 1, read, 100, 100));

    for (const auto changes : {command::trim, command::write_zeroes}) {
        CHECK_FALSE(may_follow(changes, 100, 100, read, 150, 1));
        CHECK_FALSE(may_follow(read, 150, 1, changes, 100, 100));
        CHECK_FALSE(may_follow(changes, 100, 100, changes, 150, 100));
        CHECK(may_follow(changes, 100, 100, changes, 200, 100));
    }
    // These change nothing.
    CHECK(may_follow(command::cache, 100, 100, read, 100, 100));
    CHECK(may_follow(command::block_status, 100, 100, read, 100, 100));
    CHECK(may_follow(write, 0, 100, command::flush, 0, 0));

    CHECK(may_follow(write, 100, 100, write, 100, 100, false));
}

TEST_CASE(
    "session/windowed/window: an overlapping request waits until the other's reply has been sent")
{
    window w{10, 1 << 20, true};
    auto& first = begin(w, asking(command::write, 1, 100, 100));
    begin(w, asking(command::write, 2, 300, 100));
    const auto later = asking(command::read, 3, 150, 10);
    CHECK_FALSE(w.has_room_for(later));
    w.finished(first);
    CHECK_FALSE(w.has_room_for(later));
    std::ignore = gathered(w);
    CHECK_FALSE(w.has_room_for(later));
    w.sent();
    // A free slot does not count.
    CHECK(w.has_room_for(later));
    CHECK_FALSE(w.has_room_for(asking(command::read, 3, 399, 10)));
}
