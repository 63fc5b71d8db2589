// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/acceptance/connections.hpp>

#include <array>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sys/socket.h>
#include <unistd.h>

using nbd::errc;
using nbd::session::ticker;
using namespace std::chrono_literals;

namespace {

/// One end of a pair of sockets; closes as Asio's do.
class end_of_pair {
public:
    explicit end_of_pair(int fd) : fd_{fd} {}
    end_of_pair(end_of_pair&& other) noexcept : fd_{std::exchange(other.fd_, -1)} {}
    end_of_pair& operator=(end_of_pair&&) = delete;
    ~end_of_pair()
    {
        if (fd_ >= 0)
            ::close(fd_);
    }
    int native_handle() const { return fd_; }

private:
    int fd_;
};

/// A peer by its name.
struct named_peer {
    std::string name;
    [[nodiscard]] std::string text() const { return name; }
    friend bool same_origin(const named_peer& a, const named_peer& b)
    {
        ++compared;
        return a.name == b.name;
    }
    static inline std::size_t compared = 0;  ///< calls of same_origin
};

using connections_type = nbd::acceptance::connections<end_of_pair, named_peer, nbd::silent>;

/// A server's connections, and the clients' ends.
struct listener {
    struct joined {
        connections_type::entry entry;
        end_of_pair client;
        /// Whether the server's end was shut down.
        bool ended() const
        {
            char c = 0;
            return ::recv(client.native_handle(), &c, 1, MSG_DONTWAIT) == 0;
        }
        void say() const { REQUIRE(::send(client.native_handle(), "x", 1, MSG_NOSIGNAL) == 1); }
    };

    joined join(std::string name = "pair")
    {
        std::array<int, 2> ends{};
        if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) != 0)
            throw std::runtime_error{"socketpair"};
        const auto entry =
            list.add(limits.places_per_peer, end_of_pair{ends[0]}, named_peer{std::move(name)},
                     limits, observer, ++count, clock, stopping, memory);
        entry->session.waiting = true;
        return {entry, end_of_pair{ends[1]}};
    }

    /// For a client of another peer.
    void make_room(std::uint64_t now, std::uint64_t idle_grace)
    {
        list.make_room(named_peer{"new"}, limits.places_per_peer, now, idle_grace, stall_grace);
    }
    /// A client that holds memory, and takes its replies slowly or not at all.
    void takes_replies(const joined& c)
    {
        c.entry->session.admit("disk", nullptr);
        if (!c.entry->session.memory.begin_work())
            throw std::runtime_error{"no memory"};
        c.entry->session.sending.begin_transfer();
        c.entry->session.arm_sending();
    }
    /// Another client waits for working memory, and `f` is called.
    template <class F>
    void while_memory_is_short(F f)
    {
        nbd::session::memory_budget::waiter waiter;
        waiter.wake = [](void*) {};
        if (!memory.wait(waiter, nbd::session::memory_budget::pool::working,
                         memory.limit(nbd::session::memory_budget::pool::working)))
            throw std::runtime_error{"there is memory"};
        f();
        memory.forget(waiter);
    }

    static constexpr std::uint64_t stall_grace = 1'000'000;

    nbd::settings limits;
    nbd::silent observer;
    nbd::session::memory_budget memory{limits};
    ticker clock;
    std::atomic<bool> stopping{false};
    connections_type list;
    std::uint64_t count = 0;
};

}  // namespace

TEST_CASE("acceptance/connections: connections are counted, and a removed one is closed")
{
    listener r;
    CHECK(r.list.count() == 0);
    const auto a = r.join();
    const auto b = r.join();
    CHECK(r.list.count() == 2);
    CHECK(a.entry->session.who.id == 1);
    CHECK(b.entry->session.who.id == 2);
    r.list.remove(a.entry);
    CHECK(r.list.count() == 1);
    CHECK(a.ended());
    CHECK_FALSE(b.ended());
    CHECK(b.entry->session.who.id == 2);
}

TEST_CASE("acceptance/connections: cut_all cuts every connection, and an earlier reason stays")
{
    listener r;
    const auto a = r.join();
    const auto b = r.join();
    a.entry->cut(errc::idle_timeout);
    r.list.cut_all(errc::server_stopped);
    CHECK(a.ended());
    CHECK(b.ended());
    CHECK(a.entry->cut_for() == errc::idle_timeout);
    CHECK(b.entry->cut_for() == errc::server_stopped);
    CHECK(r.list.count() == 2);
}

TEST_CASE("acceptance/connections: end_of_requests() leaves sent bytes readable, and replies can "
          "still be sent")
{
    listener r;
    const auto a = r.join();
    a.say();
    r.list.end_of_requests();
    std::array<char, 2> got{};
    const int server = a.entry->socket.native_handle();
    CHECK(::recv(server, got.data(), 2, 0) == 1);
    CHECK(::recv(server, got.data(), 2, 0) == 0);
    CHECK(::send(server, "y", 1, MSG_NOSIGNAL) == 1);
    CHECK(::recv(a.client.native_handle(), got.data(), 2, 0) == 1);
    CHECK(a.entry->cut_for() == errc{});
}

TEST_CASE("acceptance/connections: only connections that exceed a deadline are cut")
{
    listener r;
    const auto late = r.join();
    const auto patient = r.join();
    const auto served = r.join();
    const auto heard = r.join();
    late.entry->session.deadline.arm(1s, errc::idle_timeout);
    patient.entry->session.deadline.arm(1h, errc::idle_timeout);
    served.entry->session.deadline.arm(1s, errc::progress_timeout);
    served.entry->session.waiting = false;
    heard.entry->session.deadline.arm(1s, errc::progress_timeout);
    heard.say();
    r.list.cut_overdue(1);
    CHECK_FALSE(late.ended());
    r.clock.advance_to(100);
    r.list.cut_overdue(1);
    CHECK(late.ended());
    CHECK(late.entry->cut_for() == errc::idle_timeout);
    CHECK_FALSE(patient.ended());
    CHECK_FALSE(served.ended());  // the server works on its request
    CHECK_FALSE(heard.ended());   // the server has not received its bytes yet
}

TEST_CASE("acceptance/connections: the oldest handshake gives way, one at a time")
{
    listener r;
    const auto working = r.join();
    working.entry->session.admitted = true;
    const auto first = r.join();
    const auto second = r.join();
    r.make_room(0, 0);
    CHECK_FALSE(first.ended());  // it has been in the handshake for less than a second
    const auto later = ticker::ticks(1s);
    r.clock.advance_to(later);
    r.make_room(later, 0);
    CHECK(first.ended());
    CHECK(first.entry->cut_for() == errc::evicted);
    r.make_room(later, 0);
    CHECK_FALSE(second.ended());
    r.list.remove(first.entry);
    r.make_room(later, 0);
    CHECK(second.ended());
    r.list.remove(second.entry);
    r.make_room(later, 0);
    CHECK_FALSE(working.ended());
}

TEST_CASE("acceptance/connections: the connection idle longest gives way after its grace")
{
    listener r;
    const auto first = r.join();
    const auto second = r.join();
    const auto in_flight = r.join();
    for (const auto* c : {&first, &second, &in_flight})
        c->entry->session.admit("disk", nullptr);
    in_flight.entry->session.deadline.arm(0ms, errc::progress_timeout);
    second.entry->session.deadline.arm(0ms, errc::idle_timeout);
    r.clock.advance_to(10);
    first.entry->session.deadline.arm(0ms, errc::idle_timeout);
    r.make_room(1000, 0);  // 0: no eviction
    r.make_room(39, 40);
    CHECK_FALSE(second.ended());
    r.make_room(40, 40);
    CHECK(second.ended());
    CHECK(second.entry->cut_for() == errc::evicted);
    r.list.remove(second.entry);
    r.make_room(49, 40);
    CHECK_FALSE(first.ended());
    first.say();  // a request that the session has not received yet
    r.make_room(50, 40);
    CHECK_FALSE(first.ended());
    CHECK_FALSE(in_flight.ended());
}

TEST_CASE("acceptance/connections: a peer that has its share replaces a connection of its own")
{
    listener r;
    const auto other = r.join("other");
    const auto a = r.join("one");
    const auto b = r.join("one");
    const auto later = ticker::ticks(1s);
    const auto make_room = [&](std::uint64_t now) {
        r.list.make_room(named_peer{"one"}, 2, now, 0, r.stall_grace);
    };
    CHECK(r.list.has_share(named_peer{"one"}, 2));
    CHECK_FALSE(r.list.has_share(named_peer{"one"}, 3));
    CHECK_FALSE(r.list.has_share(named_peer{"one"}, 0));
    make_room(0);  // none has been in its handshake for long enough
    CHECK_FALSE(a.ended());
    r.clock.advance_to(later);
    make_room(later);
    CHECK(a.ended());
    make_room(later);  // one is ending already
    CHECK_FALSE(b.ended());
    make_room(2 * later);  // it has not ended within a second: a call of its backend may hang
    CHECK(b.ended());
    CHECK_FALSE(other.ended());
}

TEST_CASE("acceptance/connections: a peer with more than its share gives up a connection")
{
    listener r;
    r.limits.places_per_peer = 2;
    const auto other = r.join("other");
    std::vector<listener::joined> greedy;
    for (int i = 0; i < 4; ++i)
        greedy.push_back(r.join("greedy"));
    for (const auto& c : greedy)
        c.entry->session.admit("disk", nullptr);
    for (auto& c : greedy)
        c.entry->session.waiting = false;  // all are busy
    const auto later = ticker::ticks(1s);

    SECTION("the newest, where all are busy; never below the share")
    {
        r.make_room(later, 0);
        CHECK(greedy[3].ended());
        CHECK_FALSE(other.ended());  // although it is in its handshake
        r.list.remove(greedy[3].entry);
        r.make_room(later, 0);
        CHECK(greedy[2].ended());
        r.list.remove(greedy[2].entry);
        r.make_room(later, 0);
        CHECK_FALSE(greedy[1].ended());
        CHECK(other.ended());
    }
    SECTION("the idle one first")
    {
        greedy[0].entry->session.waiting = true;
        greedy[0].entry->session.deadline.arm(0ms, errc::idle_timeout);
        r.make_room(later, 1);
        CHECK(greedy[0].ended());
        CHECK_FALSE(greedy[3].ended());
    }
    SECTION("not where its older connections have ended")
    {
        r.list.remove(greedy[0].entry);
        r.list.remove(greedy[1].entry);
        r.make_room(0, 0);
        CHECK_FALSE(greedy[3].ended());
        CHECK_FALSE(greedy[2].ended());
    }
}

TEST_CASE("acceptance/connections: an identity with more than its share gives up a connection")
{
    const auto identity = GENERATE(nbd::tls_info{.psk_identity = "greedy"},
                                   nbd::tls_info{.subject = "CN=greedy", .fingerprint = "1"},
                                   nbd::tls_info{.fingerprint = "1"}, nbd::tls_info{});
    const bool proved = !identity.psk_identity.empty() || !identity.fingerprint.empty();
    listener r;
    r.limits.places_per_identity = GENERATE(2U, 0U);
    const bool counts = proved && r.limits.places_per_identity != 0;
    const auto add = [&](std::string peer, nbd::tls_info info) {
        auto c = r.join(std::move(peer));
        c.entry->session.secure(std::move(info));
        c.entry->session.admit("disk", nullptr);
        c.entry->session.waiting = false;  // busy
        return c;
    };
    std::vector<listener::joined> greedy;
    for (const auto* const address : {"a", "b", "c", "d"})
        greedy.push_back(add(address, identity));
    const auto key = add("e", {.psk_identity = "other"});
    const auto certificate = add("f", {.subject = "CN=other", .fingerprint = "2"});
    const auto plain = r.join("g");
    plain.entry->session.waiting = false;

    r.make_room(0, 0);
    CHECK(greedy[3].ended() == counts);  // the newest, because all are busy
    r.list.remove(greedy[3].entry);
    r.make_room(0, 0);
    CHECK(greedy[2].ended() == counts);
    r.list.remove(greedy[2].entry);
    r.make_room(0, 0);
    CHECK_FALSE(greedy[1].ended());  // it has its share
    greedy.push_back(add("h", identity));
    r.make_room(0, 0);
    CHECK(greedy[4].ended() == counts);
    CHECK_FALSE((greedy[0].ended() || greedy[1].ended() || key.ended() || certificate.ended()
                 || plain.ended()));
}

TEST_CASE("acceptance/connections: connections are listed, and one is cut by its number")
{
    listener r;
    const auto a = r.join();
    const auto b = r.join();
    a.entry->session.admit("disk", nullptr);
    CHECK(r.list.cut(2, errc::disconnected));
    CHECK_FALSE(r.list.cut(3, errc::disconnected));
    const auto all = r.list.list();
    REQUIRE(all.size() == 2);
    CHECK(all[0].export_name == "disk");
    CHECK(all[0].state == nbd::connection_state::transmission);
    CHECK(all[1].state == nbd::connection_state::closing);
    CHECK(all[1].peer == "pair");
}

TEST_CASE("acceptance/connections: a client that is being served does not give way")
{
    listener r;
    const auto busy = r.join();
    busy.entry->session.waiting = false;
    const auto dawdling = r.join();
    r.make_room(ticker::ticks(1s), 0);
    CHECK_FALSE(busy.ended());
    CHECK(dawdling.ended());
}

TEST_CASE(
    "acceptance/connections: a stopping server does not take the end of requests for a disconnect")
{
    listener r;
    const auto busy = r.join();
    const auto gone = r.join();
    for (const auto& who : {busy.entry, gone.entry})
        who->session.working = true;
    r.list.end_of_requests();
    r.stopping = true;
    ::shutdown(gone.client.native_handle(), SHUT_RDWR);
    CHECK(gone.entry->peer_gone(1));
    for (std::uint64_t tick = 0; tick < ticker::ticks(60s); ++tick)
        REQUIRE_FALSE(busy.entry->peer_gone(1));
    // A half-closed client is kept for some time.
    r.stopping = false;
    std::uint64_t ticks = 1;
    while (!busy.entry->peer_gone(1) && ticks < ticker::ticks(60s))
        ++ticks;
    CHECK(ticks == ticker::ticks(10s));
}

TEST_CASE("acceptance/connections: a peer with its share costs no look at all its connections")
{
    listener r;
    r.limits.places_per_peer = 4;
    std::vector<listener::joined> all;
    for (int i = 0; i < 20; ++i) {
        named_peer::compared = 0;
        all.push_back(r.join());
        CHECK(named_peer::compared <= 4);
        CHECK(all.back().entry->beyond_share == (i >= 4));
    }
    CHECK(r.list.has_share(named_peer{"pair"}, 4));
    CHECK(r.list.has_share(named_peer{"pair"}, 20));
    CHECK_FALSE(r.list.has_share(named_peer{"pair"}, 21));
    CHECK_FALSE(r.list.has_share(named_peer{"pair"}, 0));
    CHECK_FALSE(r.list.has_share(named_peer{"other"}, 1));
}

TEST_CASE("acceptance/connections: a client that moves no byte is kept while nobody needs anything")
{
    listener r;
    const auto reader = r.join();
    r.takes_replies(reader);
    const auto writer = r.join();
    writer.entry->session.admit("disk", nullptr);
    writer.entry->session.deadline.begin_transfer();
    writer.entry->session.arm_message();
    r.clock.advance_to(ticker::ticks(24h));
    r.list.cut_overdue(1);
    CHECK_FALSE(reader.ended());
    CHECK_FALSE(writer.ended());
}

TEST_CASE("acceptance/connections: where a place is needed, the client that moves no byte for "
          "longest gives way")
{
    listener r;
    const auto slow = r.join();
    const auto first = r.join();
    const auto second = r.join();
    const auto idle = r.join();
    for (const auto* c : {&slow, &first, &second})
        r.takes_replies(*c);
    idle.entry->session.admit("disk", nullptr);
    constexpr auto grace = listener::stall_grace;
    const auto arm = [](const listener::joined& c) {
        c.entry->session.sending.moved(1);
        c.entry->session.arm_sending();
    };
    r.clock.advance_to(10);
    arm(second);
    r.clock.advance_to(grace);
    arm(slow);  // a byte after a long time
    idle.entry->session.deadline.arm(0ms, errc::idle_timeout);

    r.make_room(grace - 1, 0);
    CHECK_FALSE(first.ended());
    SECTION("the longest silent first")
    {
        r.make_room(grace, 0);
        CHECK(first.ended());
        CHECK(first.entry->cut_for() == errc::evicted);
        r.list.remove(first.entry);
        r.make_room(grace + 9, 0);
        CHECK_FALSE(second.ended());
        r.make_room(grace + 10, 0);
        CHECK(second.ended());
        r.list.remove(second.entry);
        r.make_room(2 * grace - 1, 0);
        CHECK_FALSE(slow.ended());
    }
    SECTION("an idle one goes before it")
    {
        r.make_room(grace + 40, 40);
        CHECK(idle.ended());
        CHECK_FALSE(first.ended());
    }
}

TEST_CASE("acceptance/connections: where memory is needed, clients that move no byte give way "
          "before slow ones")
{
    listener r;
    const auto slow = r.join();
    const auto stalled = r.join();
    r.takes_replies(slow);
    const auto evict = [&] {
        r.while_memory_is_short(
            [&] { r.list.evict_stalled(r.memory, r.clock.now(), r.limits.stall_grace); });
    };
    // One byte each second is far below settings.least_transfer_rate.
    std::uint64_t now = 0;
    const auto a_byte_each_second = [&](int seconds) {
        for (int i = 0; i < seconds; ++i) {
            r.clock.advance_to(now += ticker::frequency);
            slow.entry->session.sending.moved(1);
            slow.entry->session.arm_sending();
        }
    };
    a_byte_each_second(100);
    r.takes_replies(stalled);
    a_byte_each_second(3);
    SECTION("the stalled one first, although the slow one is farther behind")
    {
        a_byte_each_second(3);
        r.list.evict_stalled(r.memory, now, r.limits.stall_grace);
        CHECK_FALSE(stalled.ended());  // nobody waits for memory
        evict();
        CHECK(stalled.ended());
        CHECK(stalled.entry->cut_for() == errc::evicted);
        CHECK_FALSE(slow.ended());
        r.list.remove(stalled.entry);
        evict();
        CHECK(slow.ended());
    }
    SECTION("bytes that leave the socket's buffer are progress")
    {
        const int server = stalled.entry->socket.native_handle();
        const std::array<char, 100> bytes{};
        for (int i = 0; i < 2; ++i)
            REQUIRE(::send(server, bytes.data(), bytes.size(), MSG_NOSIGNAL) == 100);
        r.list.cut_overdue(1);
        a_byte_each_second(10);
        std::array<char, 100> taken{};
        REQUIRE(::recv(stalled.client.native_handle(), taken.data(), taken.size(), MSG_WAITALL)
                == 100);
        r.list.cut_overdue(1);
        CHECK(stalled.entry->silent_since() == now);
    }
}

TEST_CASE("acceptance/connections: without a least rate, every byte restarts send_timeout")
{
    listener r;
    r.limits.send_timeout = 60s;
    r.limits.least_transfer_rate = 0;
    const auto slow = r.join();
    r.takes_replies(slow);
    const std::array<char, 10> byte{};
    for (int i = 0; i < 10; ++i)  // each is a unit of the buffer
        REQUIRE(::send(slow.entry->socket.native_handle(), byte.data(), 1, MSG_NOSIGNAL) == 1);
    std::uint64_t now = 0;
    for (int i = 0; i < 10; ++i) {
        r.clock.advance_to(now += ticker::ticks(50s));
        std::array<char, 1> taken{};
        REQUIRE(::recv(slow.client.native_handle(), taken.data(), 1, MSG_DONTWAIT) == 1);
        r.list.cut_overdue(1);
        REQUIRE(slow.entry->cut_for() == errc{});
    }
    r.clock.advance_to(now + ticker::ticks(60s));
    r.list.cut_overdue(1);
    CHECK(slow.ended());
    CHECK(slow.entry->cut_for() == errc::send_timeout);
}
