// SPDX-License-Identifier: MIT
// The in-order loop: calls of the observer, deadlines while the backend works, and how
// replies are gathered. Replies byte by byte are in in_order_loop_answers.test.cpp.
#include "catch.hpp"
#include "support/lone_context.hpp"
#include "support/session.hpp"

#include <functional>
#include <optional>
#include <string>
#include <vector>

using namespace nbd_test;
using nbd::errc;

namespace {

struct listener {
    std::vector<std::string> heard;

    void at_request(const nbd::client& who, const nbd::protocol::request& r)
    {
        heard.push_back("client " + std::to_string(who.id) + " request "
                        + std::to_string(r.cookie));
    }
    void at_reply(const nbd::client&, const nbd::protocol::request& r, nbd::protocol::error_value e)
    {
        heard.push_back("reply " + std::to_string(r.cookie) + " error "
                        + std::to_string(static_cast<std::uint32_t>(e)));
    }
    void at_error(const nbd::client&, const nbd::protocol::request&, const nbd::failure& why)
    {
        heard.push_back("cause " + std::to_string(why.code.value()));
    }
};
using words = std::vector<std::string>;

/// Calls `at_call` in every call.
struct watched_disk {
    std::uint64_t size() const { return 1 << 20; }
    void read(std::uint64_t, std::span<std::byte>) { at_call(); }
    void write(std::uint64_t, std::span<const std::byte>) { at_call(); }
    void flush() { at_call(); }
    std::function<void()> at_call;
};

/// Shrinks during a call.
struct shrinking_disk {
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    std::uint64_t size() const { return 1 << 20; }
    void read(std::uint64_t, std::span<std::byte>) { *calls += " read"; }
    void write(std::uint64_t offset, std::span<const std::byte> from)
    {
        *calls += " write " + std::to_string(offset) + '+' + std::to_string(from.size());
        if (offset != 0)
            REQUIRE_FALSE(exports->resize("disk", 64 << 10));
    }
    void resize(std::uint64_t) { *calls += " resize"; }

    nbd::export_set<shrinking_disk>* exports;
    std::string* calls;
};

/// Notes how much had been sent whenever others have their turn.
struct sharing : nbd::io::blocking {
    static std::uint64_t turn() { return std::uint64_t{64} << 10; }
    static inline std::vector<std::size_t> turns;
    static std::suspend_never yield(const scripted_stream& stream)
    {
        turns.push_back(stream.heard().size());
        return {};
    }
};

/// A loop whose bytes the test receives and sends itself.
template <class Io = nbd::io::blocking>
struct responding_by : lone_context<nbd::silent> {
    using opened_type = nbd::export_set<copying_disk>::opened;
    using loop_type = nbd::session::in_order_loop<Io, scripted_stream, opened_type, nbd::silent>;
    using next_step = typename loop_type::next_step;

    disk_state state{1 << 20};
    nbd::export_set<copying_disk> exports;
    std::optional<opened_type> opened{open()};
    nbd::handshake::agreement agreed{.terms = opened->info().terms};
    scripted_stream unused{{}};
    loop_type loop{unused, *opened, agreed, context};

private:
    std::optional<opened_type> open()
    {
        exports.add("disk", copying_disk{state});
        std::error_code error;
        return nbd_test::open(exports, "disk", context.who, error);
    }
};
using responding = responding_by<>;

}  // namespace

TEST_CASE("session/in_order/in_order_loop: the observer is notified of every request, reply and "
          "cause of an error")
{
    disk_state state{200'000};
    one_client<copying_disk, listener> client{copying_disk{state}};
    client.transmit(request(0, 1, 0, 4) + request(1, 2, 0, 2) + hex("0102") + request(99, 3, 0, 0)
                    + request(2, 4, 0, 0));
    CHECK(client.observer.heard
          == words{"client 1 request 1", "reply 1 error 0", "client 1 request 2", "reply 2 error 0",
                   "client 1 request 3", "reply 3 error 22", "client 1 request 4"});

    // The wire has eight error values; the observer gets the backend's own error.
    client.observer.heard.clear();
    state.error = std::make_error_code(std::errc::file_too_large);
    client.transmit(request(0, 1, 0, 4) + request(0, 2, 0, 150'000) + request(1, 3, 0, 100'000)
                    + bytes(100'000));
    const auto cause = "cause " + std::to_string(EFBIG);
    CHECK(client.observer.heard
          == words{"client 1 request 1", cause, "reply 1 error 28", "client 1 request 2", cause,
                   "reply 2 error 28", "client 1 request 3", cause, "reply 3 error 28"});
}

TEST_CASE("session/in_order/in_order_loop: a client with many requests gives others their turn")
{
    bytes requests;
    for (unsigned i = 0; i < 100; ++i)
        requests = requests + request(0, i, 0, 512);
    responding_by<sharing> client;
    scripted_stream stream{requests};
    decltype(client)::loop_type loop{stream, *client.opened, client.agreed, client.context};
    sharing::turns.clear();
    loop.run().get();
    CHECK(stream.heard().size() == 100 * (16 + 512));
    // The second receive, after 73 requests, lets others run by itself.
    CHECK(sharing::turns
          == std::vector<std::size_t>{15 * 528, 30 * 528, 45 * 528, 60 * 528, 88 * 528});
}

TEST_CASE("session/in_order/in_order_loop: others have their turn while a long reply is sent")
{
    responding_by<sharing> client;
    scripted_stream stream{request(0, 1, 0, 200'000), {.write = 30'000}};
    decltype(client)::loop_type loop{stream, *client.opened, client.agreed, client.context};
    sharing::turns.clear();
    loop.run().get();
    CHECK(stream.heard().size() == 16 + 200'000);
    CHECK(sharing::turns == std::vector<std::size_t>{30'000, 120'000, 200'016});
}

TEST_CASE("session/in_order/in_order_loop: a client is not overdue while the backend works for it")
{
    one_client<watched_disk> client{watched_disk{}};
    client.limits.idle_timeout = std::chrono::seconds{1};
    client.limits.progress_timeout = std::chrono::seconds{1};
    client.limits.send_timeout = std::chrono::seconds{1};
    int overdue = 0;
    int calls = 0;
    std::error_code ignored;
    client.exports.remove("disk");
    client.exports.add("disk", watched_disk{[&] {
                           client.clock.advance_to(client.clock.now() + 1000);
                           overdue += client.context->deadline.overdue() ? 1 : 0;
                           ++calls;
                       }});
    SECTION("after a wait between requests")
    {
        client.transmit(request(3, 1, 0, 0));
    }
    SECTION("after a wait in the middle of a request")
    {
        client.transmit(request(1, 1, 0, 9) + bytes(9), {.read = 30});
    }
    SECTION("after a large payload")
    {
        client.transmit(request(1, 1, 0, 100'000) + bytes(100'000), {.read = 50'000});
    }
    SECTION("after replies that had to be sent first")
    {
        client.transmit(request(0, 1, 0, 500'000) + request(0, 2, 0, 500'000));
    }
    CHECK(calls > 0);
    CHECK(overdue == 0);
}

TEST_CASE("session/in_order/in_order_loop: the time limit depends on what the session waits for")
{
    one_client<watched_disk> client{watched_disk{[] {}}};
    client.limits.idle_timeout = std::chrono::seconds{3};
    client.limits.progress_timeout = std::chrono::seconds{2};
    const auto limit = [&](bytes said) {
        std::uint64_t tick = 0;
        client.clock.advance_to(0);
        client.at_end = [&] {
            while (!client.context->deadline.overdue() && ++tick < 1000)
                client.clock.advance_to(tick);
        };
        client.transmit(std::move(said));
        const auto reason = client.context->deadline.reason();
        CHECK_FALSE(client.context->deadline.overdue());  // at the end no deadline is armed
        return std::pair{tick, reason};
    };
    const std::pair idle{nbd::session::ticker::ticks(client.limits.idle_timeout),
                         errc::idle_timeout};
    const std::pair progress{nbd::session::ticker::ticks(client.limits.progress_timeout),
                             errc::progress_timeout};
    CHECK((limit({}) == idle));
    CHECK((limit(request(3, 1, 0, 0)) == idle));
    CHECK((limit(hex("25")) == progress));
    CHECK((limit(request(1, 1, 0, 9) + bytes(8)) == progress));
    CHECK((limit(request(1, 1, 0, 100'000)) == progress));
    CHECK((limit(request(1, 1, 0, 100'000) + bytes(99'999)) == progress));
    CHECK((limit(request(1, 1, ~0ULL, 100'000)) == progress));
    client.limits.idle_timeout = {};
    CHECK(limit({}).first == 1000);
}

TEST_CASE(
    "session/in_order/in_order_loop: zeroes past an end that a resize has moved are not written")
{
    nbd::export_set<shrinking_disk>* exports = nullptr;
    std::string calls;
    one_client<shrinking_disk> client{shrinking_disk{nullptr, &calls}};
    exports = &client.exports;
    client.exports.remove("disk");
    client.exports.add("disk", shrinking_disk{exports, &calls});
    // Zeroes are written in pieces of 64 KiB. The export shrinks during the second one.
    client.transmit(request(6, 1, 0, 1 << 20) + request(2, 2, 0, 0));
    CHECK(client.heard() == shown(simple_reply(28, 1)));
    CHECK(calls == " write 0+65536 write 65536+65536 resize");
}

TEST_CASE("session/in_order/in_order_loop: a READ longer than any reply is refused at once")
{
    responding client;
    auto& r = client.loop;
    const auto said = request(0, 9, 0, 1U << 30) + request(2, 1, 0, 0);
    const auto space = r.in().space();
    std::copy(said.begin(), said.end(), space.begin());
    r.in().received(said.size());
    int turns = 0;
    while (r.answer_buffered() == responding::next_step::go_on && r.out().empty())
        REQUIRE(++turns < 100);
    CHECK_FALSE(r.out().empty());
}

TEST_CASE("session/in_order/in_order_loop: the first half of many replies is sent early, unless "
          "that does not help the client")
{
    responding client;
    auto& r = client.loop;
    /// The number of replies in each send, for `count` READs that arrive together.
    const auto sends = [&r](std::size_t count) {
        bytes asked;
        for (std::size_t i = 0; i < count; ++i)
            asked = asked + request(0, i, 4096 * i, 4096);
        const auto space = r.in().space();
        REQUIRE(space.size() >= asked.size());
        std::copy(asked.begin(), asked.end(), space.begin());
        r.in().received(asked.size());
        std::vector<std::size_t> sent;
        for (auto step = responding::next_step::go_on; step == responding::next_step::go_on;) {
            step = r.answer_buffered();
            sent.push_back(boost::asio::buffer_size(r.out().pieces()) / 4112);
            r.out().clear();
        }
        if (sent.back() == 0)
            sent.pop_back();
        return sent;
    };
    using list = std::vector<std::size_t>;
    REQUIRE(r.answer_buffered() == responding::next_step::receive);
    CHECK(sends(16) == list{8, 8});
    // The client then sends in halves, and these are not split.
    CHECK(sends(8) == list{8});
    CHECK(sends(8) == list{8});
    CHECK(sends(16) == list{8, 8});
    // The client sends all at once again, so a split does not help it; it is retried sometimes.
    for (int i = 0; i < 15; ++i)
        REQUIRE(sends(16) == list{16});
    CHECK(sends(16) == list{8, 8});
    // A few replies are not worth a separate send.
    REQUIRE(sends(2) == list{2});
    CHECK(sends(7) == list{7});
}
