// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/session/outbox.hpp>

#include <boost/asio/buffer.hpp>

#include <algorithm>

using nbd::session::outbox;
using namespace nbd_test;

namespace {
void put(outbox& out, const bytes& more)
{
    const auto room = out.append(more.size());
    REQUIRE(room.size() == more.size());
    std::copy(more.begin(), more.end(), room.begin());
}
bytes due(const outbox& out)
{
    bytes all(boost::asio::buffer_size(out.pieces()));
    boost::asio::buffer_copy(boost::asio::buffer(all), out.pieces());
    return all;
}
}  // namespace

static_assert(
    boost::asio::is_const_buffer_sequence<std::span<const boost::asio::const_buffer>>::value);

TEST_CASE("session/outbox: bytes of its own are one piece")
{
    outbox out{16};
    CHECK(out.empty());
    CHECK(out.capacity() == 16);
    put(out, hex("0102"));
    put(out, hex("030405"));
    CHECK_FALSE(out.empty());
    CHECK(out.pieces().size() == 1);
    CHECK(shown(due(out)) == "01020304 05");
}

TEST_CASE("session/outbox: lent memory goes out between its own, uncopied and in order")
{
    outbox out{16};
    const auto memory = hex("a0a1a2");
    put(out, hex("01"));
    out.lend(memory);
    put(out, hex("02"));
    put(out, hex("03"));
    out.lend(memory);
    CHECK(out.pieces().size() == 4);
    CHECK(out.pieces()[1].data() == memory.data());
    CHECK(shown(due(out)) == "01a0a1a2 0203a0a1 a2");
}

TEST_CASE("session/outbox: what is taken back is not sent, and its room is free again")
{
    outbox out{8};
    put(out, hex("0102"));
    put(out, hex("0304050607"));
    out.retract(4);
    CHECK(out.fits(5, 0));
    CHECK_FALSE(out.fits(6, 0));
    put(out, hex("0809"));
    CHECK(shown(due(out)) == "01020308 09");
    CHECK(out.pieces().size() == 1);
}

TEST_CASE("session/outbox: fits to the byte and to the piece")
{
    outbox out{100};
    CHECK(out.fits(100, 0));
    CHECK_FALSE(out.fits(101, 0));
    CHECK(out.fits(0, outbox::max_pieces - 1));
    CHECK_FALSE(out.fits(0, outbox::max_pieces));
    const auto memory = hex("ff");
    std::size_t replies = 0;
    while (out.fits(1, 1)) {
        put(out, hex("00"));
        out.lend(memory);
        ++replies;
    }
    CHECK(replies == outbox::max_pieces / 2);
    CHECK(out.pieces().size() == outbox::max_pieces);
    CHECK(due(out).size() == 2 * replies);
}

TEST_CASE("session/outbox: a full one is empty again when all is sent, in any pieces")
{
    const auto memory = pattern(7);
    for (std::size_t step = 1; step <= 24; ++step) {
        outbox out{12};
        for (int round = 0; round < 3; ++round) {
            put(out, hex("0102"));
            out.lend(memory);
            put(out, hex("03"));
            put(out, hex("04050607"));
            out.lend(memory);
            put(out, hex("08"));
            CHECK_FALSE(out.fits(5, 0));
            const auto all = due(out);
            bytes sent;
            while (!out.empty()) {
                const auto now = due(out);
                const auto n = std::min(step, now.size());
                sent.insert(sent.end(), now.begin(), now.begin() + static_cast<std::ptrdiff_t>(n));
                out.sent(n);
            }
            REQUIRE(sent == all);
            REQUIRE(out.pieces().empty());
            REQUIRE(out.fits(12, 10));
        }
    }
}

TEST_CASE("session/outbox: nothing sent changes nothing")
{
    outbox out{4};
    out.sent(0);
    CHECK(out.empty());
    put(out, hex("01"));
    out.sent(0);
    CHECK(shown(due(out)) == "01");
}
