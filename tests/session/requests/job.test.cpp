// SPDX-License-Identifier: MIT
// One request of a window, from its beginning to its reply; and the same object for the next.
#include "catch.hpp"
#include "support/bytes.hpp"
#include "support/lone_context.hpp"
#include <nbd/session/requests/job.hpp>

#include <boost/asio/buffer.hpp>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

using namespace nbd_test;
using nbd::protocol::command;
using nbd::protocol::error_value;
using nbd::protocol::reply_style;
using nbd::session::block;
namespace cf = nbd::protocol::command_flag;

namespace {

const std::error_code eio = std::make_error_code(std::errc::io_error);
const std::error_code enospc = std::make_error_code(std::errc::no_space_on_device);

/// Every byte tells where it lies; every second 16 KiB are a hole.
struct disk {
    static constexpr std::uint64_t part = 16 << 10;
    std::string story;
    std::error_code error;        ///< of each call
    std::uint64_t bad = 1 << 30;  ///< a read of this place fails
    bytes written;

    static std::byte at(std::uint64_t offset) { return static_cast<std::byte>(offset / 3 + 1); }
    void note(const std::string& word, std::uint64_t offset, std::uint64_t length)
    {
        story += (story.empty() ? "" : ", ") + word + ' ' + std::to_string(offset) + '+'
            + std::to_string(length);
    }
    std::uint64_t size() const { return 1 << 20; }
    std::error_code read(std::uint64_t offset, std::span<std::byte> to)
    {
        note("read", offset, to.size());
        for (auto& b : to)
            b = at(offset++);
        return offset > bad ? eio : error;
    }
    std::error_code write(std::uint64_t offset, std::span<const std::byte> from)
    {
        note("write", offset, from.size());
        written.assign(from.begin(), from.end());
        return error;
    }
    std::error_code flush()
    {
        story += ", flush";
        return error;
    }
    std::error_code trim(std::uint64_t offset, std::uint64_t length)
    {
        note("trim", offset, length);
        return error;
    }
    std::error_code extents(std::uint64_t offset, std::uint64_t length, nbd::extent_list& to)
    {
        note("extents", offset, length);
        for (auto end = offset + length; offset < end;) {
            const auto rest = part - offset % part;
            to.add(rest, offset / part % 2 == 0 ? 0 : 3);
            offset += rest;
        }
        return error;
    }
};
struct opened {
    using backend_type = disk;
};
using job = nbd::session::job<opened, nbd::silent>;
using replies = nbd::session::replies<nbd::silent>;

/// A job, and what its reply is written to.
struct working : lone_context<nbd::silent> {
    explicit working(reply_style style = reply_style::simple,
                     std::size_t outbox_bytes = std::size_t{128} << 10)
        : to{context, style, outbox_bytes},
          agreed{.terms = {.size = 1 << 20, .blocks = {}, .told = 1 << 20},
                 .style = style,
                 .contexts = {{.id = 5, .index = 0}}}
    {
    }

    void begin(const nbd::protocol::request& r, const bytes& payload = {})
    {
        one.begin(r, agreed.terms, agreed, to, payload, 100);
    }
    /// Makes its calls, as a thread of a pool does.
    std::string calls()
    {
        backend.story.clear();
        nbd::transmission::make_all(backend, one, one.request_data(),
                                    nbd::transmission::unguarded{});
        return backend.story;
    }
    /// Its reply, which is then sent.
    bytes reply()
    {
        REQUIRE_FALSE(one.next());
        REQUIRE(one.fits(to));
        one.answer(to);
        bytes all(boost::asio::buffer_size(to.out().pieces()));
        boost::asio::buffer_copy(boost::asio::buffer(all), to.out().pieces());
        to.out().sent(all.size());
        one.done();
        return all;
    }
    bytes whole(const nbd::protocol::request& r, const bytes& payload = {})
    {
        begin(r, payload);
        std::ignore = calls();
        return reply();
    }

    replies to;
    nbd::handshake::agreement agreed;
    disk backend;
    job one;
};

constexpr nbd::protocol::request asking(command c, std::uint64_t cookie, std::uint64_t offset,
                                        std::uint64_t length, std::uint16_t flags = 0)
{
    return {.flags = flags, .command = c, .cookie = cookie, .offset = offset, .length = length};
}
bytes content(std::uint64_t offset, std::size_t length)
{
    bytes all(length);
    for (auto& b : all)
        b = disk::at(offset++);
    return all;
}
bytes chunk(const char* flags_type, std::uint64_t cookie, const bytes& payload)
{
    return hex("668e33ef") + hex(flags_type) + big(cookie)
        + big(static_cast<std::uint32_t>(payload.size())) + payload;
}

}  // namespace

TEST_CASE("session/requests/job: a READ is read to memory of its own, and answered with that")
{
    // Short ones are copied to the reply, long ones are lent.
    for (const std::size_t length : {1U, 512U, 8192U, 8193U, 200'000U}) {
        working w;
        w.begin(asking(command::read, 7, 4096, length));
        CHECK(w.one.memory().size() == length);
        CHECK(w.calls() == "read 4096+" + std::to_string(length));
        CHECK((w.reply() == simple_reply(0, 7) + content(4096, length)));
    }
}

TEST_CASE("session/requests/job: a READ of no length has no calls, and an answer in each style")
{
    working simple;
    simple.begin(asking(command::read, 7, 0, 0));
    CHECK(simple.calls().empty());
    CHECK(shown(simple.reply()) == shown(simple_reply(0, 7)));
    working chunks{reply_style::structured};
    CHECK(shown(chunks.whole(asking(command::read, 7, 0, 0))) == shown(chunk("00010000", 7, {})));
}

TEST_CASE("session/requests/job: a READ that fails has no data, and says why")
{
    working w;
    w.backend.error = enospc;
    CHECK(shown(w.whole(asking(command::read, 7, 0, 512))) == shown(simple_reply(28, 7)));
    CHECK(shown(w.whole(asking(command::read, 8, 0, 100'000))) == shown(simple_reply(28, 8)));
}

TEST_CASE("session/requests/job: a WRITE is what was copied to its memory")
{
    working w;
    const auto payload = pattern(5000);
    w.begin(asking(command::write, 7, 512, 5000), payload);
    CHECK(w.one.memory().size() == 5000);
    CHECK(w.calls() == "write 512+5000");
    CHECK((w.backend.written == payload));
    CHECK(shown(w.reply()) == shown(simple_reply(0, 7)));
}

TEST_CASE("session/requests/job: FUA is answered for after its flush, whose failure counts")
{
    working w;
    w.begin(asking(command::write, 7, 512, 10, cf::fua), pattern(10));
    CHECK(w.one.next()->what == nbd::transmission::step::member::write);
    w.one.take({});
    REQUIRE(w.one.next());
    CHECK(w.one.next()->what == nbd::transmission::step::member::flush);
    w.one.take(eio);
    CHECK(shown(w.reply()) == shown(simple_reply(5, 7)));
}

TEST_CASE("session/requests/job: requests without data")
{
    working w;
    w.begin(asking(command::trim, 7, 512, 1024));
    CHECK(w.one.memory().empty());
    CHECK(w.calls() == "trim 512+1024");
    CHECK(shown(w.reply()) == shown(simple_reply(0, 7)));
    w.backend.error = enospc;
    CHECK(shown(w.whole(asking(command::trim, 8, 512, 1024))) == shown(simple_reply(28, 8)));
}

TEST_CASE("session/requests/job: a READ without its holes, in chunks (P57)")
{
    working w{reply_style::structured};
    w.begin(asking(command::read, 7, 0, 3 * disk::part));
    CHECK(w.calls() == "extents 0+49152, read 0+16384, read 32768+16384");
    const auto data = [](std::uint64_t at) { return big(at) + content(at, disk::part); };
    const auto hole = big(disk::part) + big(static_cast<std::uint32_t>(disk::part));
    CHECK((w.reply()
           == chunk("00000001", 7, data(0)) + chunk("00000002", 7, hole)
               + chunk("00010001", 7, data(2 * disk::part))));
    // From the middle of one part to the middle of another, and a hole at the end.
    w.begin(asking(command::read, 8, disk::part - 100, 100 + disk::part * 2 + 50));
    CHECK(w.calls() == "extents 16284+32918, read 16284+100, read 32768+16384");
    CHECK((w.reply()
           == chunk("00000001", 8,
                    big(std::uint64_t{disk::part - 100}) + content(disk::part - 100, 100))
               + chunk("00000002", 8, hole) + chunk("00000001", 8, data(2 * disk::part))
               + chunk("00010002", 8, big(3 * disk::part) + big(std::uint32_t{50}))));
}

TEST_CASE("session/requests/job: where holes are not wanted, none are asked for")
{
    working simple;
    simple.begin(asking(command::read, 7, 0, 3 * disk::part));
    CHECK(simple.calls() == "read 0+49152");
    working whole{reply_style::structured};
    whole.begin(asking(command::read, 7, 0, 3 * disk::part, cf::df));
    CHECK(whole.calls() == "read 0+49152");
    CHECK(whole.reply().size() == 20 + 8 + 3 * disk::part);
    whole.begin(asking(command::read, 7, 0, 2 * disk::part - 1));
    CHECK(whole.calls() == "read 0+32767");
}

TEST_CASE("session/requests/job: a piece that cannot be read makes one error, which says where")
{
    working w{reply_style::structured};
    w.backend.bad = 2 * disk::part;
    const auto reply = w.whole(asking(command::read, 7, 0, 3 * disk::part));
    // ERROR_OFFSET, the last chunk of its reply: u32 error | u16 length | text | u64 offset
    CHECK(shown(std::span{reply}.first(8)) == "668e33ef 00018002");
    CHECK(shown(std::span{reply}.subspan(20, 4)) == "00000005");
    CHECK(shown(std::span{reply}.last(8)) == shown(big(std::uint64_t{2 * disk::part})));
}

TEST_CASE("session/requests/job: BLOCK_STATUS, and one that is refused for its payload (P66)")
{
    working w{reply_style::structured};
    w.begin(asking(command::block_status, 7, 0, 2 * disk::part));
    CHECK(w.calls() == "extents 0+32768");
    CHECK(shown(w.reply())
          == shown(chunk("00010005", 7, hex("00000005 00004000 00000000 00004000 00000003"))));
    w.backend.error = eio;
    const auto failed = w.whole(asking(command::block_status, 8, 0, 2 * disk::part));
    CHECK(shown(std::span{failed}.first(8)) == "668e33ef 00018001");

    working other{reply_style::extended};
    auto r = asking(command::block_status, 9, 0, 12, cf::payload_len);
    r.extended = true;
    const auto payload = hex("0000000000000200 00000006");  // 5 was selected
    other.begin(r, payload);
    CHECK(other.calls().empty());
    const auto refused = other.reply();
    CHECK(shown(std::span{refused}.first(8)) == "6e8a278c 00018001");
    CHECK(shown(std::span{refused}.subspan(8, 8)) == shown(big(std::uint64_t{9})));
    CHECK(shown(std::span{refused}.subspan(32, 4)) == "00000016");
}

TEST_CASE("session/requests/job: what the backend lends is sent as it is, without a call")
{
    working w;
    const auto memory = pattern(10'000);
    w.one.begin(asking(command::read, 7, 0, 10'000), memory);
    CHECK_FALSE(w.one.next());
    REQUIRE(w.one.fits(w.to));
    w.one.answer(w.to);
    REQUIRE(w.to.out().pieces().size() == 2);
    CHECK(w.to.out().pieces()[1].data() == memory.data());
    w.to.out().clear();
    // A short one is copied behind its header.
    w.one.begin(asking(command::read, 8, 0, 100), std::span{memory}.first(100));
    CHECK((w.reply() == simple_reply(0, 8) + bytes(memory.begin(), memory.begin() + 100)));
}

TEST_CASE("session/requests/job: it asks the backend what it lends, all of it or nothing")
{
    struct lending : disk {
        bytes memory = pattern(10'000);
        std::span<const std::byte> lend(std::uint64_t offset, std::size_t length) noexcept
        {
            return std::span{memory}
                .subspan(static_cast<std::size_t>(offset))
                .first(std::min(length, memory.size() - static_cast<std::size_t>(offset)));
        }
    };
    struct opened_lending {
        using backend_type = lending;
    };
    nbd::session::job<opened_lending, nbd::silent> one;
    lending backend;
    CHECK(one.begin_lent(backend, asking(command::read, 7, 0, 10'000)));
    CHECK_FALSE(one.next());
    CHECK_FALSE(one.begin_lent(backend, asking(command::read, 7, 1, 10'000)));
    CHECK_FALSE(one.begin_lent(backend, asking(command::read, 7, 0, 0)));
    CHECK_FALSE(one.begin_lent(backend, asking(command::write, 7, 0, 10)));
    working none;
    CHECK_FALSE(none.one.begin_lent(none.backend, asking(command::read, 7, 0, 10)));
}

TEST_CASE("session/requests/job: what is refused or answered already has no calls")
{
    working w;
    w.one.refuse(asking(command::write, 7, 0, 512), error_value::eperm);
    CHECK(w.calls().empty());
    CHECK(shown(w.reply()) == shown(simple_reply(1, 7)));
    w.one.answered(asking(command::resize, 8, 4096, 0), {});
    CHECK(w.calls().empty());
    CHECK(shown(w.reply()) == shown(simple_reply(0, 8)));
    w.one.answered(asking(command::resize, 9, 4096, 0), enospc);
    CHECK(shown(w.reply()) == shown(simple_reply(28, 9)));
}

TEST_CASE("session/requests/job: what was begun can be refused, and is not answered as it was")
{
    working w;
    w.begin(asking(command::write, 7, 0, 512), pattern(512));
    w.one.refuse(w.one.request(), error_value::eshutdown);
    CHECK(w.calls().empty());
    CHECK(shown(w.reply()) == shown(simple_reply(108, 7)));
    // Nor when it has been refused first, as it is until it has begun.
    w.one.refuse(asking(command::read, 8, 0, 512), error_value::enomem);
    CHECK((w.whole(asking(command::read, 8, 0, 512)) == simple_reply(0, 8) + content(0, 512)));
    w.one.refuse(asking(command::read, 9, 0, 512), error_value::enomem);
    const auto memory = pattern(512);
    w.one.begin(asking(command::read, 9, 0, 512), memory);
    CHECK((w.reply() == simple_reply(0, 9) + memory));
    // Calls that were begun are not made for what is lent.
    w.begin(asking(command::read, 9, 0, 512));
    w.one.begin(asking(command::read, 10, 0, 512), memory);
    CHECK(w.calls().empty());
    CHECK((w.reply() == simple_reply(0, 10) + memory));
    // An outcome that comes after all, when there is no memory to go on.
    w.begin(asking(command::read, 10, 0, 512));
    w.one.answered(w.one.request(), enospc);
    CHECK(shown(w.reply()) == shown(simple_reply(28, 10)));
}

TEST_CASE(
    "session/requests/job: whatever came before, the next is answered as if it were the first")
{
    const auto lent = pattern(9000);
    using kind = std::function<bytes(working&, std::uint64_t)>;
    const std::vector<kind> kinds{
        [](working& w, std::uint64_t c) { return w.whole(asking(command::read, c, 512, 100)); },
        [](working& w, std::uint64_t c) {
            return w.whole(asking(command::read, c, 0, 4 * disk::part));
        },
        [](working& w, std::uint64_t c) { return w.whole(asking(command::read, c, 0, 0)); },
        [](working& w, std::uint64_t c) {
            return w.whole(asking(command::write, c, 0, 700, cf::fua), pattern(700));
        },
        [](working& w, std::uint64_t c) { return w.whole(asking(command::trim, c, 0, 512)); },
        [](working& w, std::uint64_t c) {
            return w.whole(asking(command::block_status, c, 0, 4 * disk::part));
        },
        [&lent](working& w, std::uint64_t c) {
            w.one.begin(asking(command::read, c, 0, lent.size()), lent);
            return w.reply();
        },
        [](working& w, std::uint64_t c) {
            w.one.refuse(asking(command::read, c, 0, 1 << 30), error_value::einval);
            return w.reply();
        },
        [](working& w, std::uint64_t c) {
            w.one.answered(asking(command::resize, c, 0, 0), {});
            return w.reply();
        },
        [](working& w, std::uint64_t c) {
            w.backend.error = eio;
            auto reply = w.whole(asking(command::read, c, 0, 4 * disk::part));
            w.backend.error = {};
            return reply;
        },
        [](working& w, std::uint64_t c) {
            w.backend.error = eio;
            auto reply = w.whole(asking(command::block_status, c, 0, 512));
            w.backend.error = {};
            return reply;
        },
        [](working& w, std::uint64_t c) {
            w.backend.error = enospc;
            auto reply = w.whole(asking(command::trim, c, 0, 512));
            w.backend.error = {};
            return reply;
        },
    };
    for (const auto style : {reply_style::simple, reply_style::structured}) {
        working used{style};
        std::uint64_t cookie = 0;
        for (std::size_t before = 0; before < kinds.size(); ++before)
            for (std::size_t after = 0; after < kinds.size(); ++after) {
                CAPTURE(before, after);
                std::ignore = kinds[before](used, ++cookie);
                working fresh{style};
                ++cookie;
                REQUIRE((kinds[after](used, cookie) == kinds[after](fresh, cookie)));
            }
    }
}

TEST_CASE("session/requests/job: its memory is held until the reply has been sent, and no longer")
{
    // What a block of that size is given next shows whether the job has it.
    const auto* const known = block{200'000}.data();
    const auto is_held = [known] { return block{200'000}.data() != known; };
    working w;
    w.begin(asking(command::read, 7, 0, 200'000));
    CHECK(is_held());
    std::ignore = w.calls();
    w.one.answer(w.to);
    CHECK(is_held());
    w.one.done();
    CHECK_FALSE(is_held());
    w.to.out().clear();
    w.begin(asking(command::write, 7, 0, 200'000), bytes(200'000));
    CHECK(is_held());
    // What comes next without memory of its own does not keep it either.
    w.begin(asking(command::trim, 7, 0, 512));
    CHECK_FALSE(is_held());
}

TEST_CASE("session/requests/job: a reply is added only where there is room for all of it")
{
    working w;
    auto& out = w.to.out();
    const auto fill = [&out](std::size_t left) {
        out.clear();
        std::ignore = out.append(out.capacity() - left);
    };
    // Data that are copied need their room as well as the header.
    w.begin(asking(command::read, 7, 0, 8000));
    std::ignore = w.calls();
    fill(replies::most_header + 8000);
    CHECK(w.one.fits(w.to));
    w.one.answer(w.to);
    fill(replies::most_header + 7999);
    CHECK_FALSE(w.one.fits(w.to));
    // What is lent does not.
    w.begin(asking(command::read, 7, 0, 200'000));
    std::ignore = w.calls();
    fill(replies::most_header + replies::copied_data);
    CHECK(w.one.fits(w.to));
    w.one.answer(w.to);
    w.begin(asking(command::trim, 7, 0, 512));
    std::ignore = w.calls();
    fill(replies::most_header);
    CHECK(w.one.fits(w.to));
    fill(replies::most_header - 1);
    CHECK_FALSE(w.one.fits(w.to));
    out.clear();
    CHECK(w.one.fits(w.to));
}

TEST_CASE(
    "session/requests/job: a reply without its holes is made of many pieces, and goes by itself")
{
    working w{reply_style::structured};
    w.begin(asking(command::read, 7, 0, 4 * disk::part));
    std::ignore = w.calls();
    std::ignore = w.to.out().append(1);
    CHECK_FALSE(w.one.fits(w.to));
    w.to.out().clear();
    CHECK(w.one.fits(w.to));
    // But not where it is refused after all.
    w.one.refuse(w.one.request(), error_value::eshutdown);
    std::ignore = w.to.out().append(1);
    CHECK(w.one.fits(w.to));
    w.to.out().clear();
}

TEST_CASE("session/requests/job: an outbox that is full of pieces takes no data that are lent")
{
    working w;
    const auto memory = pattern(10'000);
    w.one.begin(asking(command::read, 7, 0, 10'000), memory);
    int replies_in = 0;
    while (w.one.fits(w.to)) {
        w.one.answer(w.to);
        REQUIRE(++replies_in <= 32);
    }
    CHECK(replies_in == 32);
    CHECK(w.to.out().pieces().size() == nbd::session::outbox::max_pieces);
    w.to.out().clear();
}

TEST_CASE(
    "session/requests/job: a READ of more than a chunk can hold needs room for each of its chunks")
{
    // Exports may allow it: block_sizes::maximum has no bound. Nothing reads the memory here.
    working w{reply_style::structured};
    const auto small = pattern(10'000);
    w.one.begin(asking(command::read, 7, 0, 10'000), small);
    for (int i = 0; i < 31; ++i)
        w.one.answer(w.to);
    CHECK(w.to.out().pieces().size() == 62);
    constexpr std::size_t length = 2 * replies::largest_chunk;
    w.one.begin(asking(command::read, 7, 0, length), {small.data(), length});
    CHECK_FALSE(w.one.fits(w.to));  // it would write past the end of the outbox's pieces
    w.to.out().clear();
}

TEST_CASE("session/requests/job: the longest READ that is admitted fits into an empty outbox")
{
    // Nothing reads the memory here.
    working w{reply_style::structured};
    const auto some = pattern(10);
    constexpr auto length = static_cast<std::size_t>(replies::largest_read);
    w.one.begin(asking(command::read, 7, 0, length), {some.data(), length});
    CHECK(w.one.fits(w.to));
    w.one.answer(w.to);
    CHECK(w.to.out().pieces().size() == 2 * length / replies::largest_chunk);
    CHECK_FALSE(w.one.fits(w.to));
    w.to.out().clear();
}
