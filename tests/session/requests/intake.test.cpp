// SPDX-License-Identifier: MIT
// Decoding of received bytes into requests: in any pieces, refused or not, with payloads of any
// size.
#include "catch.hpp"
#include "support/bytes.hpp"
#include "support/lone_context.hpp"
#include <nbd/session/requests/intake.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

using namespace nbd_test;
using nbd::protocol::command;
using nbd::protocol::error_value;
using nbd::protocol::reply_style;
namespace cf = nbd::protocol::command_flag;
namespace tf = nbd::protocol::transmission_flag;

namespace {

struct listener {
    std::vector<std::uint64_t> heard;
    void at_request(const nbd::client&, const nbd::protocol::request& r)
    {
        heard.push_back(r.cookie);
    }
};
struct fake_export {
    std::uint64_t bytes = 64 << 20;
    bool removed = false;
    [[nodiscard]] std::uint64_t size() const noexcept { return bytes; }
    [[nodiscard]] bool gone() const noexcept { return removed; }
};
using intake = nbd::session::intake<fake_export, listener>;
using finding = intake::finding;
using decision = intake::decision;

constexpr std::size_t buffered = intake::buffered_payload;
constexpr std::size_t inbox_bytes = 128 << 10;

/// A client's bytes, received `most` bytes at a time.
struct taking_in : lone_context<listener> {
    explicit taking_in(bytes said, std::size_t at_a_time = 1 << 30,
                       reply_style style = reply_style::simple, std::uint16_t flags = 0,
                       bool status = false, std::uint32_t maximum = 32 << 20)
        : input{std::move(said)}, most{at_a_time},
          agreed{.terms = {.size = disk.bytes,
                           .flags = static_cast<std::uint16_t>(tf::has_flags | tf::send_trim
                                                               | tf::send_flush | flags),
                           .blocks = {1, 4096, maximum},
                           .block_status = status},
                 .style = style},
          in{disk, agreed, context}
    {
    }

    /// Receives until the intake finds something else; nothing if the bytes have ended.
    std::optional<finding> next()
    {
        for (;;) {
            const auto what = in.next();
            if (what != finding::receive)
                return what;
            if (at == input.size())
                return std::nullopt;
            receive();
        }
    }
    void receive()
    {
        const auto to = in.space();
        if (to.empty())
            FAIL("there is no room for what must come");
        largest_space = std::max(largest_space, to.size());
        const auto n = std::min({most, to.size(), input.size() - at});
        std::copy_n(input.begin() + static_cast<std::ptrdiff_t>(at), n, to.begin());
        in.received(n);
        at += n;
        ++pieces;
    }
    /// The next request, admitted, with its cookie.
    std::uint64_t admitted()
    {
        REQUIRE(next() == finding::complete);
        REQUIRE(in.accept() == decision::admitted);
        return in.request().cookie;
    }

    bytes input;
    std::size_t most;
    std::size_t at = 0;
    std::size_t pieces = 0;
    std::size_t largest_space = 0;
    fake_export disk;
    nbd::handshake::agreement agreed;
    intake in;
};

bytes extended_request(std::uint16_t command, std::uint64_t cookie, std::uint64_t offset,
                       std::uint64_t length, std::uint16_t flags = 0)
{
    return hex("21e41c71") + big(flags) + big(command) + big(cookie) + big(offset) + big(length);
}
bytes reading(std::uint64_t cookie)
{
    return request(0, cookie, 512 * cookie, 4096);
}
bytes writing(std::uint64_t cookie, std::uint64_t offset, std::size_t length)
{
    return request(1, cookie, offset, static_cast<std::uint32_t>(length))
        + pattern(length, static_cast<unsigned>(cookie));
}
bool is_payload(std::span<const std::byte> found, std::uint64_t cookie, std::size_t length)
{
    const auto expected = pattern(length, static_cast<unsigned>(cookie));
    return std::equal(found.begin(), found.end(), expected.begin(), expected.end());
}

}  // namespace

TEST_CASE("session/requests/intake: requests are decoded unchanged, in any pieces")
{
    bytes said;
    for (std::uint64_t i = 0; i < 200; ++i)
        said = std::move(said) + (i % 5 == 3 ? writing(i, i * 7, 100 + i) : reading(i));
    for (const std::size_t at_a_time : {1U, 7U, 27U, 28U, 29U, 1000U, 1U << 30}) {
        taking_in t{said, at_a_time};
        for (std::uint64_t i = 0; i < 200; ++i) {
            REQUIRE(t.admitted() == i);
            const auto& r = t.in.request();
            if (i % 5 == 3) {
                REQUIRE(r.command == command::write);
                REQUIRE(r.offset == i * 7);
                REQUIRE(is_payload(t.in.payload(), i, 100 + i));
                t.in.consume_payload();
            } else {
                REQUIRE(r.command == command::read);
                REQUIRE(r.offset == i * 512);
                REQUIRE(r.length == 4096);
            }
        }
        CHECK_FALSE(t.next());
        CHECK_FALSE(t.in.mid_message());
        CHECK(t.observer.heard.size() == 200);
        CHECK(t.observer.heard[123] == 123);
    }
}

TEST_CASE("session/requests/intake: many small requests take one receive and little memory")
{
    bytes said;
    for (std::uint64_t i = 0; i < 64; ++i)
        said = std::move(said) + reading(i);
    taking_in t{said};
    for (std::uint64_t i = 0; i < 64; ++i)
        REQUIRE(t.admitted() == i);
    CHECK(t.pieces == 1);
    CHECK_FALSE(t.in.holds_much());
}

TEST_CASE("session/requests/intake: next() changes nothing until the request is accepted")
{
    taking_in t{reading(1) + reading(2)};
    CHECK(t.next() == finding::complete);
    CHECK(t.in.next() == finding::complete);
    CHECK(t.in.request().cookie == 1);
    CHECK(t.observer.heard.empty());
    CHECK(t.in.accept() == decision::admitted);
    CHECK(t.next() == finding::complete);
    CHECK(t.in.request().cookie == 2);
}

TEST_CASE("session/requests/intake: mid_message() is true only while a message is incomplete")
{
    taking_in t{reading(1), 1};
    CHECK_FALSE(t.in.mid_message());
    t.receive();
    CHECK(t.in.mid_message());
    CHECK(t.admitted() == 1);
    CHECK_FALSE(t.in.mid_message());
}

TEST_CASE(
    "session/requests/intake: a small inbox grows for a payload that does not fit, to the byte")
{
    // 2048 bytes hold the header and 2020 more.
    for (const std::size_t length : {2019U, 2020U, 2021U, 2048U, 4096U, 65535U, 65536U}) {
        for (const std::size_t at_a_time : {1U, 28U, 2047U, 2048U, 1U << 30}) {
            CAPTURE(length, at_a_time);
            taking_in t{writing(3, 0, length) + reading(4), at_a_time};
            REQUIRE(t.admitted() == 3);
            REQUIRE_FALSE(t.in.receiving());
            REQUIRE(is_payload(t.in.payload(), 3, length));
            t.in.consume_payload();
            REQUIRE(t.admitted() == 4);
            REQUIRE(t.largest_space <= inbox_bytes);
        }
    }
    taking_in fits{writing(3, 0, 2020), 28};
    CHECK(fits.admitted() == 3);
    fits.in.consume_payload();
    CHECK_FALSE(fits.in.holds_much());
    taking_in does_not{writing(3, 0, 2021), 28};
    CHECK(does_not.admitted() == 3);
    CHECK_FALSE(does_not.in.holds_much());  // the payload needs it
    does_not.in.consume_payload();
    CHECK(does_not.in.holds_much());
    does_not.in.shrink();
    CHECK_FALSE(does_not.in.holds_much());
}

TEST_CASE("session/requests/intake: there is space at once for a payload of known length")
{
    taking_in t{writing(3, 0, buffered), 28};
    t.receive();
    t.most = 1 << 30;
    CHECK(t.admitted() == 3);
    CHECK(t.pieces == 2);
}

TEST_CASE("session/requests/intake: behind other requests a payload of the largest size still fits")
{
    for (const std::size_t ahead : {1U, 60U, 72U, 73U, 74U, 1000U}) {
        bytes said;
        for (std::uint64_t i = 0; i < ahead; ++i)
            said = std::move(said) + reading(i);
        taking_in t{std::move(said) + writing(7, 0, buffered) + writing(8, 0, buffered), 5000};
        for (std::uint64_t i = 0; i < ahead; ++i)
            REQUIRE(t.admitted() == i);
        for (const std::uint64_t i : {7U, 8U}) {
            REQUIRE(t.admitted() == i);
            REQUIRE(is_payload(t.in.payload(), i, buffered));
            t.in.consume_payload();
        }
        REQUIRE_FALSE(t.next());
    }
}

TEST_CASE("session/requests/intake: a large payload is received into its memory, in pieces, and "
          "not beyond it")
{
    for (const std::size_t length : {buffered + 1, std::size_t{100'000}, std::size_t{1'000'000}}) {
        for (const std::size_t at_a_time : {28U, 29U, 4096U, 99'000U, 1U << 30}) {
            CAPTURE(length, at_a_time);
            taking_in t{writing(3, 0, length) + reading(4) + writing(5, 0, 10), at_a_time};
            REQUIRE(t.admitted() == 3);
            bytes place(length + 2, std::byte{0xee});
            t.in.receive_into(std::span{place}.subspan(1, length));
            while (t.in.receiving()) {
                REQUIRE(t.in.next() == finding::receive);
                REQUIRE(t.in.mid_message());
                const auto to = t.in.space();
                REQUIRE(to.data() > place.data());
                REQUIRE(to.data() + to.size() == place.data() + 1 + length);
                t.receive();
            }
            REQUIRE(is_payload(std::span{place}.subspan(1, length), 3, length));
            REQUIRE(place.front() == std::byte{0xee});
            REQUIRE(place.back() == std::byte{0xee});
            // The following requests are in step.
            REQUIRE(t.admitted() == 4);
            REQUIRE(t.admitted() == 5);
            REQUIRE(is_payload(t.in.payload(), 5, 10));
        }
    }
}

TEST_CASE("session/requests/intake: a large payload that was read ahead is available at once")
{
    // A first write makes the inbox large; the second is then read ahead as a whole.
    taking_in t{writing(1, 0, buffered) + writing(2, 0, buffered + 1) + reading(3)};
    CHECK(t.admitted() == 1);
    t.in.consume_payload();
    CHECK(t.next() == finding::complete);
    while (t.at != t.input.size())
        t.receive();
    CHECK(t.in.accept() == decision::admitted);
    bytes place(buffered + 1);
    t.in.receive_into(place);
    CHECK_FALSE(t.in.receiving());
    CHECK(is_payload(place, 2, buffered + 1));
    CHECK(t.admitted() == 3);
}

TEST_CASE(
    "session/requests/intake: a refused payload is skipped in pieces, then the request is answered")
{
    for (const std::size_t length : {0U, 1U, 2020U, 2021U, 65536U, 65537U, 3'000'000U}) {
        for (const std::size_t at_a_time : {29U, 4096U, 1U << 30}) {
            CAPTURE(length, at_a_time);
            taking_in t{writing(3, 0, length) + reading(4), at_a_time, reply_style::simple,
                        tf::read_only};
            REQUIRE(t.next() == finding::complete);
            REQUIRE(t.in.accept() == decision::refused);
            if (length > 65536) {
                REQUIRE(t.in.next() == finding::receive);  // no refusal yet
                REQUIRE(t.in.mid_message());
            }
            REQUIRE(t.next() == finding::refusal);
            REQUIRE(t.in.why() == error_value::eperm);
            REQUIRE(t.in.request().cookie == 3);
            REQUIRE(t.admitted() == 4);  // and it was refused once
            REQUIRE_FALSE(t.next());
            REQUIRE(t.largest_space <= inbox_bytes);
            REQUIRE(t.observer.heard == std::vector<std::uint64_t>{3, 4});
        }
    }
}

TEST_CASE("session/requests/intake: a request whose refused payload is incomplete is not answered")
{
    auto said = writing(3, 0, 70'000);
    said.pop_back();
    taking_in t{said, 1000, reply_style::simple, tf::read_only};
    CHECK(t.next() == finding::complete);
    CHECK(t.in.accept() == decision::refused);
    CHECK_FALSE(t.next());
    CHECK(t.in.mid_message());
}

TEST_CASE("session/requests/intake: each refusal has its error value, and the stream stays in step")
{
    taking_in t{request(99, 1, 0, 0) + request(0, 2, 64 << 20, 1) + request(4, 3, 0, 512, 0x8000)
                + request(3, 4, 1, 0) + writing(5, (64 << 20) - 1, 2) + reading(6)};
    const auto refused = [&t] {
        REQUIRE(t.next() == finding::complete);
        REQUIRE(t.in.accept() == decision::refused);
        REQUIRE(t.next() == finding::refusal);
        return t.in.why();
    };
    CHECK(refused() == error_value::einval);
    CHECK(refused() == error_value::einval);
    CHECK(refused() == error_value::einval);
    CHECK(refused() == error_value::einval);
    CHECK(refused() == error_value::enospc);
    CHECK(t.admitted() == 6);
}

TEST_CASE("session/requests/intake: a payload above the limit ends the session, one at the limit "
          "does not")
{
    constexpr std::uint32_t longest = 32 << 20;
    taking_in t{request(1, 1, 0, longest)};
    CHECK(t.admitted() == 1);
    CHECK_FALSE(t.context.ended);

    taking_in attack{request(1, 1, 0, longest + 1)};
    CHECK(attack.next() == finding::complete);
    CHECK(attack.in.accept() == decision::leave);
    CHECK(attack.context.ended == nbd::errc::payload_too_long);

    // Also if it would be refused.
    taking_in refused{request(1, 1, 0, longest + 1), 28, reply_style::simple, tf::read_only};
    CHECK(refused.next() == finding::complete);
    CHECK(refused.in.accept() == decision::leave);
}

TEST_CASE("session/requests/intake: DISC is a clean end, a wrong magic is an error")
{
    taking_in t{reading(1) + request(2, 2, 0, 0) + reading(3)};
    CHECK(t.admitted() == 1);
    CHECK(t.next() == finding::complete);
    CHECK(t.in.accept() == decision::leave);
    CHECK_FALSE(t.context.ended);
    CHECK(t.observer.heard == std::vector<std::uint64_t>{1, 2});

    auto wrong = reading(2);
    wrong[3] ^= std::byte{1};
    taking_in other{reading(1) + wrong};
    CHECK(other.admitted() == 1);
    CHECK(other.next() == finding::close);
    CHECK(other.context.ended == nbd::errc::bad_request_magic);
    // Compact requests end a session with extended headers, and the other way round.
    taking_in compact{reading(1) + reading(2), 100, reply_style::extended};
    CHECK(compact.next() == finding::close);
    taking_in extended{extended_request(0, 1, 0, 512), 100, reply_style::simple};
    CHECK(extended.next() == finding::close);
}

TEST_CASE("session/requests/intake: requests to a removed export or a stopping server are refused")
{
    const auto said = reading(1) + writing(2, 0, 100) + reading(3);
    for (const bool gone : {true, false}) {
        taking_in t{said};
        t.disk.removed = gone;
        t.stopping = !gone;
        for (const std::uint64_t cookie : {1U, 2U, 3U}) {
            CHECK(t.next() == finding::complete);
            CHECK(t.in.accept() == decision::refused);
            CHECK(t.next() == finding::refusal);
            CHECK(t.in.request().cookie == cookie);
            CHECK(t.in.why() == error_value::eshutdown);
        }
    }
    taking_in cut{said};
    cut.context.ending.close(nbd::errc::send_timeout);
    CHECK(cut.next() == finding::complete);
    CHECK(cut.in.accept() == decision::refused);
}

TEST_CASE("session/requests/intake: requests are checked against the export's present size")
{
    taking_in t{request(0, 1, 512, 512) + request(0, 2, 512, 512) + request(0, 3, 512, 512)
                + request(0, 4, 1024, 512)};
    CHECK(t.admitted() == 1);
    t.disk.bytes = 600;
    CHECK(t.next() == finding::complete);
    CHECK(t.in.accept() == decision::refused);
    CHECK(t.next() == finding::refusal);
    CHECK(t.in.why() == error_value::enospc);  // the client was given a larger size
    CHECK(t.in.terms().size == 600);
    t.disk.bytes = 1024;
    CHECK(t.admitted() == 3);
    CHECK(t.next() == finding::complete);
    CHECK(t.in.accept() == decision::refused);
    CHECK(t.in.terms().size == 1024);
}

TEST_CASE("session/requests/intake: extended requests, and payloads of other commands than WRITE")
{
    const auto write = extended_request(1, 2, 4096, 3000, cf::payload_len) + pattern(3000, 2);
    taking_in t{extended_request(0, 1, 1 << 20, 512) + write + extended_request(0, 3, 0, 512), 31,
                reply_style::extended};
    CHECK(t.admitted() == 1);
    CHECK(t.in.request().extended);
    CHECK(t.admitted() == 2);
    CHECK(is_payload(t.in.payload(), 2, 3000));
    t.in.consume_payload();
    CHECK(t.admitted() == 3);

    // A READ with a payload is refused, and the payload is skipped; the same for a long
    // BLOCK_STATUS payload.
    taking_in odd{extended_request(0, 1, 0, 3000, cf::payload_len) + bytes(3000)
                      + extended_request(7, 2, 0, 70'000, cf::payload_len) + bytes(70'000)
                      + extended_request(0, 3, 0, 512),
                  1000, reply_style::extended};
    for (int i = 0; i < 2; ++i) {
        CHECK(odd.next() == finding::complete);
        CHECK(odd.in.accept() == decision::refused);
        CHECK(odd.next() == finding::refusal);
        CHECK(odd.in.why() == error_value::einval);
    }
    CHECK(odd.admitted() == 3);
}

TEST_CASE(
    "session/requests/intake: a BLOCK_STATUS payload is accepted up to the size that is buffered")
{
    for (const std::size_t length : {std::size_t{12}, buffered, buffered + 1}) {
        CAPTURE(length);
        taking_in t{extended_request(7, 1, 0, length, cf::payload_len) + pattern(length, 1)
                        + extended_request(0, 2, 0, 512),
                    5000, reply_style::extended, tf::block_status_payload, true};
        REQUIRE(t.next() == finding::complete);
        if (length <= buffered) {
            REQUIRE(t.in.accept() == decision::admitted);
            REQUIRE(is_payload(t.in.payload(), 1, length));
            t.in.consume_payload();
        } else {
            REQUIRE(t.in.accept() == decision::refused);
            REQUIRE(t.next() == finding::refusal);
            REQUIRE(t.in.why() == error_value::einval);
        }
        REQUIRE(t.admitted() == 2);
    }
}

TEST_CASE("session/requests/intake: an extended WRITE without PAYLOAD_LEN (P55)")
{
    const auto unflagged = extended_request(1, 1, 0, 512);
    SECTION("nothing follows: this WRITE and later ones have no payload and are refused")
    {
        taking_in t{unflagged, 1000, reply_style::extended};
        CHECK(t.next() == finding::linger);
        CHECK(t.in.next() == finding::linger);  // until lingered() is called
        t.in.lingered(false);
        CHECK(t.next() == finding::complete);
        CHECK(t.in.accept() == decision::refused);
        CHECK(t.next() == finding::refusal);
        CHECK(t.in.why() == error_value::einval);
        t.input =
            std::move(t.input) + extended_request(1, 2, 0, 512) + extended_request(0, 3, 0, 512);
        CHECK(t.next() == finding::complete);
        CHECK(t.in.accept() == decision::refused);
        CHECK(t.next() == finding::refusal);
        CHECK(t.admitted() == 3);
    }
    SECTION("data follow: they are its payload")
    {
        taking_in t{unflagged, 1000, reply_style::extended};
        CHECK(t.next() == finding::linger);
        t.in.lingered(true);
        t.most = 1;
        t.input = std::move(t.input) + pattern(512, 1) + extended_request(1, 2, 0, 512)
            + pattern(512, 2) + extended_request(0, 3, 0, 512);
        CHECK(t.admitted() == 1);
        CHECK(is_payload(t.in.payload(), 1, 512));
        t.in.consume_payload();
        CHECK(t.admitted() == 2);
        CHECK(is_payload(t.in.payload(), 2, 512));
        t.in.consume_payload();
        CHECK(t.admitted() == 3);
    }
    SECTION("another request follows at once: it is refused without a wait")
    {
        taking_in t{unflagged + extended_request(0, 2, 0, 512), 1000, reply_style::extended};
        CHECK(t.next() == finding::complete);
        CHECK(t.in.accept() == decision::refused);
        CHECK(t.next() == finding::refusal);
        CHECK(t.admitted() == 2);
    }
}

TEST_CASE("session/requests/intake: a READ with DF that is longer than a chunk is refused (P59)")
{
    constexpr auto longest =
        static_cast<std::uint32_t>(nbd::session::replies<listener>::largest_chunk);
    taking_in t{request(0, 1, 0, longest, cf::df) + request(0, 2, 0, longest + 1, cf::df)
                    + request(0, 3, 0, longest + 1),
                1000,
                reply_style::structured,
                tf::send_df,
                false,
                2 * longest};
    t.disk.bytes = std::uint64_t{4} << 30;
    CHECK(t.admitted() == 1);
    CHECK(t.next() == finding::complete);
    CHECK(t.in.accept() == decision::refused);
    CHECK(t.next() == finding::refusal);
    CHECK(t.in.why() == error_value::eoverflow);
    CHECK(t.admitted() == 3);
}

TEST_CASE("session/requests/intake: a READ that is longer than any reply is refused, whatever the "
          "export allows")
{
    constexpr auto longest =
        static_cast<std::uint32_t>(nbd::session::replies<listener>::largest_read);
    taking_in t{request(0, 1, 0, longest) + request(0, 2, 0, longest + 1)
                    + request(0, 3, 0, longest + 1, cf::df) + request(0, 4, 0, 512),
                1000,
                reply_style::structured,
                tf::send_df,
                false,
                2U << 30};
    t.disk.bytes = std::uint64_t{4} << 30;
    CHECK(t.admitted() == 1);
    for (const auto why : {error_value::einval, error_value::eoverflow}) {
        CHECK(t.next() == finding::complete);
        CHECK(t.in.accept() == decision::refused);
        CHECK(t.next() == finding::refusal);
        CHECK(t.in.why() == why);
    }
    CHECK(t.admitted() == 4);
}
