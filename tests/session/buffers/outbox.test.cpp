// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "grid/allocation_count.hpp"
#include "support/bytes.hpp"
#include <nbd/session/buffers/outbox.hpp>

#include <boost/asio/buffer.hpp>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

using nbd::session::lent_data;
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
const bytes pattern_of_five = pattern(5);
}  // namespace

static_assert(boost::asio::is_const_buffer_sequence<std::span<const outbox::piece>>::value);

TEST_CASE("session/buffers/outbox: its own bytes are one piece")
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

TEST_CASE("session/buffers/outbox: lent memory is sent between its own bytes, in order and without "
          "a copy")
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

TEST_CASE("session/buffers/outbox: retracted bytes are not sent, and their space is free again")
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

TEST_CASE("session/buffers/outbox: fits() is exact to the byte and to the piece")
{
    outbox out{1000};
    CHECK(out.fits(1000, 0));
    CHECK_FALSE(out.fits(1001, 0));
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
    // Data that do not fit are refused and not written elsewhere.
    CHECK_THROWS_AS(out.lend(memory), std::length_error);
    out.clear();
    CHECK_THROWS_AS(out.append(1001), std::length_error);
    CHECK(out.empty());
}

TEST_CASE("session/buffers/outbox: many pieces keep their order and content while the outbox grows")
{
    outbox out{4096};
    const auto memory = pattern(outbox::max_pieces);
    for (int round = 0; round < 2; ++round) {
        bytes expected;
        for (std::size_t i = 0; out.fits(1, 1); ++i) {
            put(out, hex("00"));
            out.lend(std::span{memory}.subspan(i, 1));
            expected = std::move(expected) + hex("00") + bytes{memory[i]};
        }
        CHECK((due(out) == expected));
        out.sent(expected.size());
        CHECK(out.empty());
    }
}

TEST_CASE("session/buffers/outbox: after reserve() the reply allocates nothing")
{
    outbox out{64 << 10};
    const auto memory = pattern(10);
    for (int replies = 0; replies < 7; ++replies) {
        out.reserve(64 * 100, 64);
        const auto before = grid::allocations();
        for (int i = 0; i < 64; ++i) {
            std::ignore = out.append(100);
            out.lend(memory);
        }
        CHECK(grid::allocations() == before);
    }
}

TEST_CASE("session/buffers/outbox: a reply takes a block of its size, the next one twice as much")
{
    constexpr std::size_t kib = 1024;
    // A block of that size is the known one, unless the outbox holds it.
    const auto held = [known = std::array{nbd::session::block{8 * kib}.data(),
                                          nbd::session::block{16 * kib}.data(),
                                          nbd::session::block{32 * kib}.data()}] {
        return std::array{nbd::session::block{8 * kib}.data() != known[0],
                          nbd::session::block{16 * kib}.data() != known[1],
                          nbd::session::block{32 * kib}.data() != known[2]};
    };
    using blocks = std::array<bool, 3>;
    outbox out{128 * kib};
    const auto reply = pattern(4 * kib + 28);
    bytes expected;
    for (int i = 0; i < 4; ++i) {
        put(out, reply);
        expected = std::move(expected) + reply;
        CHECK(held() == blocks{true, i > 0, false});
    }
    put(out, reply);
    CHECK(held() == blocks{true, true, true});
    CHECK((due(out) == std::move(expected) + reply));
    CHECK(out.pieces().size() == 3);
    out.sent(5 * reply.size());
    CHECK(held() == blocks{false, false, false});
}

TEST_CASE("session/buffers/outbox: all of its capacity can be used in steps of any size")
{
    for (const std::size_t capacity :
         {std::size_t{16}, std::size_t{4096}, std::size_t{129} << 10, std::size_t{16} << 20})
        for (const std::size_t step : {std::size_t{1} + capacity / 5000, capacity / 3, capacity}) {
            outbox out{capacity};
            std::size_t all = 0;
            for (; out.fits(step, 0); all += step)
                out.append(step).front() = std::byte{1};
            CHECK(all == capacity / step * step);
            CHECK(boost::asio::buffer_size(out.pieces()) == all);
            if (all != capacity)
                CHECK(out.append(capacity - all).size() == capacity - all);
        }
}

TEST_CASE("session/buffers/outbox: a full outbox is empty again when all is sent, in any pieces")
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

TEST_CASE("session/buffers/outbox: sent(0) changes nothing")
{
    outbox out{4};
    out.sent(0);
    CHECK(out.empty());
    put(out, hex("01"));
    out.sent(0);
    CHECK(shown(due(out)) == "01");
}

TEST_CASE("session/buffers/outbox: a part of a file is sent between the other pieces, by itself")
{
    outbox out{16};
    const auto memory = hex("a0a1a2");
    put(out, hex("01"));
    out.lend(lent_data{{5, 4096}, 1000});
    put(out, hex("02"));
    out.lend(memory);
    CHECK(out.file_follows());
    CHECK(shown(due(out)) == "01");
    out.sent(1);
    // Now the file: all memory before it was sent.
    CHECK(out.pieces().empty());
    CHECK(out.file_follows());
    CHECK_FALSE(out.empty());
    CHECK(out.file().in_file());
    CHECK(out.file().file.file == 5);
    CHECK(out.file().file.offset == 4096);
    CHECK(out.file().length == 1000);
    out.sent(300);
    CHECK(out.pieces().empty());
    CHECK(out.file_follows());
    CHECK(out.file().file.file == 5);
    CHECK(out.file().file.offset == 4396);
    CHECK(out.file().length == 700);
    out.sent(700);
    CHECK_FALSE(out.file_follows());
    CHECK(shown(due(out)) == "02a0a1a2");
    out.sent(4);
    CHECK(out.empty());
    CHECK_FALSE(out.file_follows());
    // Nothing of it is left.
    put(out, hex("07"));
    CHECK(shown(due(out)) == "07");
    CHECK_FALSE(out.file_follows());
}

TEST_CASE("session/buffers/outbox: several parts of files are sent in order")
{
    outbox out{16};
    put(out, hex("01"));
    out.lend(lent_data{{5, 0}, 10});
    out.lend(lent_data{{6, 1}, 20});
    put(out, hex("02"));
    out.lend(lent_data{{7, 2}, 30});
    out.sent(1);
    CHECK(out.file().file.file == 5);
    out.sent(10);
    CHECK(out.pieces().empty());
    REQUIRE(out.file_follows());
    CHECK(out.file().file.file == 6);
    CHECK(out.file().length == 20);
    out.sent(20);
    CHECK(shown(due(out)) == "02");
    CHECK(out.file_follows());
    out.sent(1);
    CHECK(out.file().file.file == 7);
    CHECK(out.file().file.offset == 2);
    out.sent(30);
    CHECK(out.empty());
}

TEST_CASE("session/buffers/outbox: a file keeps its place while bytes before and after it are sent "
          "or added")
{
    outbox out{64};
    const auto memory = hex("a0a1a2");
    put(out, hex("0102"));
    out.lend(memory);
    out.lend(lent_data{{5, 0}, 10});
    out.sent(1);
    CHECK(shown(due(out)) == "02a0a1a2");
    CHECK(out.file_follows());
    out.sent(2);
    CHECK(shown(due(out)) == "a1a2");
    CHECK(out.file_follows());
    put(out, hex("03"));
    CHECK(shown(due(out)) == "a1a2");  // bytes behind the file wait for it
    out.sent(2);
    CHECK(out.pieces().empty());
    CHECK(out.file().length == 10);
    put(out, hex("04"));
    out.sent(9);
    put(out, hex("05"));
    CHECK(out.file().length == 1);
    CHECK(out.file().file.offset == 9);
    out.sent(1);
    CHECK(shown(due(out)) == "030405");
}

TEST_CASE("session/buffers/outbox: memory added after the files were sent is not sent as a file")
{
    outbox out{64};
    const auto memory = hex("a0a1a2");
    out.lend(lent_data{{5, 0}, 10});
    out.lend(memory);
    out.sent(10);
    CHECK_FALSE(out.file_follows());
    out.lend(memory);
    CHECK_FALSE(out.file_follows());
    CHECK(shown(due(out)) == "a0a1a2a0 a1a2");
    out.lend(lent_data{{6, 0}, 10});
    CHECK(out.file_follows());
    CHECK(shown(due(out)) == "a0a1a2a0 a1a2");
    out.sent(6);
    CHECK(out.file().file.file == 6);
}

TEST_CASE("session/buffers/outbox: parts of files count as pieces, and may be sent in any steps")
{
    for (std::size_t step = 1; step <= 12; ++step) {
        outbox out{1024};
        std::string expected;
        std::string story;
        int file = 0;
        while (out.fits(1, 1)) {
            put(out, hex("0f"));
            expected += 'm';
            const bool in_file = file % 3 != 1;
            if (in_file)
                out.lend(lent_data{{file, 100}, 5});
            else
                out.lend(pattern_of_five);
            expected += std::string(5, in_file ? static_cast<char>('A' + file) : 'm');
            ++file;
        }
        CHECK(file == outbox::max_pieces / 2);
        while (!out.empty()) {
            const auto in_memory = boost::asio::buffer_size(out.pieces());
            if (in_memory != 0) {
                const auto n = std::min(step, in_memory);
                story += std::string(n, 'm');
                out.sent(n);
                continue;
            }
            REQUIRE(out.pieces().empty());
            const auto part = out.file();
            REQUIRE(part.file.offset == 105 - part.length);
            const auto n = std::min(step, part.length);
            story += std::string(n, static_cast<char>('A' + part.file.file));
            out.sent(n);
        }
        REQUIRE(story == expected);
        REQUIRE(out.fits(1024, outbox::max_pieces - 1));
    }
}

TEST_CASE("session/buffers/outbox: clear() removes everything, also if a part was sent")
{
    outbox out{16};
    const auto memory = hex("a0a1a2");
    for (std::size_t sent = 0; sent <= 6; ++sent) {
        put(out, hex("0102"));
        out.lend(lent_data{{5, 0}, 3});
        out.lend(memory);
        if (sent <= 2) {
            out.sent(sent);
        } else {
            out.sent(2);
            out.sent(std::min<std::size_t>(sent - 2, 3));
        }
        out.clear();
        CHECK(out.empty());
        CHECK(out.pieces().empty());
        CHECK_FALSE(out.file_follows());
        CHECK(out.fits(16, outbox::max_pieces - 1));
    }
    out.clear();
    CHECK(out.empty());
    put(out, hex("07"));
    CHECK(shown(due(out)) == "07");
}

TEST_CASE("session/buffers/outbox: it holds memory only while it is not empty")
{
    // A new block of that size has other memory if the outbox holds the known one.
    constexpr std::size_t size = 4 << 10;
    const auto* const known = nbd::session::block{size}.data();
    const auto is_held = [known] { return nbd::session::block{size}.data() != known; };
    outbox out{size};
    CHECK_FALSE(is_held());
    const auto memory = hex("a0a1a2");
    out.lend(memory);
    CHECK_FALSE(is_held());  // no bytes of its own
    put(out, hex("01"));
    CHECK(out.pieces()[1].data() == known);
    out.sent(3);
    CHECK(out.pieces()[0].data() == known);  // still to be sent
    out.sent(1);
    CHECK(out.empty());
    CHECK_FALSE(is_held());

    put(out, hex("010203"));
    out.retract(2);
    CHECK(out.pieces()[0].data() == known);
    out.retract(1);
    CHECK(out.empty());
    CHECK(is_held());  // for another reply in place of the retracted one
    put(out, hex("01"));
    CHECK(out.pieces()[0].data() == known);
    out.clear();
    CHECK_FALSE(is_held());
}

TEST_CASE("session/buffers/outbox: retracting bytes behind lent memory keeps the lent memory")
{
    outbox out{16};
    const auto memory = hex("a0a1a2");
    out.lend(memory);
    put(out, hex("0102"));
    out.retract(2);
    CHECK_FALSE(out.empty());
    CHECK(shown(due(out)) == "a0a1a2");
    put(out, hex("03"));
    out.lend(lent_data{{5, 0}, 10});
    put(out, hex("04"));
    out.retract(1);
    CHECK(shown(due(out)) == "a0a1a203");
    out.sent(4);
    CHECK(out.file().length == 10);
    put(out, hex("0506"));
    out.sent(10);
    CHECK(shown(due(out)) == "0506");
    out.sent(2);
    CHECK(out.empty());
}

TEST_CASE(
    "session/buffers/outbox: after all own bytes were retracted, nothing follows the lent data")
{
    outbox out{16};
    const auto memory = hex("a0a1a2");
    out.lend(memory);
    put(out, hex("0102"));
    out.retract(2);
    out.sent(3);
    CHECK(out.empty());
    out.lend(lent_data{{5, 0}, 10});
    put(out, hex("01"));
    out.retract(1);
    out.sent(10);
    CHECK(out.empty());
    CHECK_FALSE(out.file_follows());
}

TEST_CASE("session/buffers/outbox: a part of lent data has the right place and length")
{
    const auto memory = pattern(100);
    const lent_data in_memory{memory};
    CHECK_FALSE(in_memory.in_file());
    CHECK(in_memory.length == 100);
    CHECK(in_memory.part(30, 20).memory.data() == memory.data() + 30);
    CHECK(in_memory.part(30, 20).length == 20);
    const lent_data in_file{{0, 5000}, 100};  // 0 is a valid descriptor
    CHECK(in_file.in_file());
    CHECK_FALSE(in_file.none());
    CHECK(in_file.part(30, 20).in_file());
    CHECK(in_file.part(30, 20).file.offset == 5030);
    CHECK(in_file.part(30, 20).length == 20);
    CHECK(lent_data{}.none());
}
