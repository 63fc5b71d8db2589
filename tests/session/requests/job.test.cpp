// SPDX-License-Identifier: MIT
// One request from its admission to its reply, for both loops, with a reused object.
#include "catch.hpp"
#include "support/bytes.hpp"
#include "support/lone_context.hpp"
#include <nbd/backend/sparse_memory.hpp>
#include <nbd/session/requests/job.hpp>

#include <boost/asio/buffer.hpp>

#include <algorithm>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

using namespace nbd_test;
using nbd::protocol::command;
using nbd::protocol::error_value;
using nbd::protocol::reply_style;
using nbd::session::block;
namespace cf = nbd::protocol::command_flag;
namespace tf = nbd::protocol::transmission_flag;

namespace {

const std::error_code eio = std::make_error_code(std::errc::io_error);
const std::error_code enospc = std::make_error_code(std::errc::no_space_on_device);

/// Every byte depends on its offset; every second part of 16 KiB is a hole.
struct disk {
    static constexpr std::uint64_t part = 16 << 10;
    std::string story;
    std::error_code error;        ///< of each call
    std::uint64_t bad = 1 << 30;  ///< a read of this offset fails
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
/// Lends memory that has no content.
struct lending : disk {
    std::size_t most = 1 << 30;  ///< largest length that it lends
    nbd::sparse_memory memory{std::size_t{1} << 30};
    [[nodiscard]] std::uint64_t size() const { return std::uint64_t{1} << 30; }
    std::span<const std::byte> lend(std::uint64_t offset, std::size_t length) noexcept
    {
        const std::span<const std::byte> all = memory.bytes(offset, length);
        return length <= most ? all : std::span<const std::byte>{};
    }
};
/// Lends memory for WRITEs and records them.
struct receiving : disk {
    bytes memory = bytes(1 << 20);
    std::span<std::byte> lend_for_write(std::uint64_t offset, std::size_t length) noexcept
    {
        return std::span{memory}.subspan(static_cast<std::size_t>(offset), length);
    }
    void lent_written(std::uint64_t offset, std::size_t length) noexcept
    {
        note("written", offset, length);
    }
};
struct resizing : disk {
    void resize(std::uint64_t) {}
};

template <class Disk>
struct opened_disk {
    using backend_type = Disk;
    Disk disk;
    bool removed = false;
    std::optional<std::uint64_t> shrunk;
    [[nodiscard]] Disk& backend() noexcept { return disk; }
    [[nodiscard]] std::uint64_t size() const noexcept { return shrunk ? *shrunk : disk.size(); }
    [[nodiscard]] bool gone() const noexcept { return removed; }
    [[nodiscard]] std::monostate lock() const noexcept { return {}; }
    [[nodiscard]] nbd::failure resize(std::uint64_t) noexcept { return disk.error; }
};
using replies = nbd::session::replies<nbd::silent>;

/// A job, its received bytes, and the outbox of its reply.
template <class Disk, bool at_once>
struct working_on : lone_context<nbd::silent> {
    using opened_type = opened_disk<Disk>;
    explicit working_on(reply_style style = reply_style::simple)
        : agreed{.terms = {.size = opened.size(),
                           .flags = 0xffff & ~tf::read_only,
                           .blocks = {1, 4096, 1U << 31},
                           .told = opened.size(),
                           .block_status = true},
                 .style = style,
                 .contexts = {{.id = 5, .index = 0}}},
          x{opened, agreed, context, false}, to{x.out}, backend{opened.disk}
    {
    }

    void receive(const bytes& more)
    {
        for (std::size_t at = 0; at != more.size();) {
            const auto space = x.in.space();
            const auto n = std::min(space.size(), more.size() - at);
            std::copy_n(more.begin() + static_cast<std::ptrdiff_t>(at), n, space.begin());
            x.in.received(n);
            at += n;
        }
    }
    /// Receives a request with its payload, which must be admitted, and begins it.
    void begin(const nbd::protocol::request& r, const bytes& payload = {})
    {
        const auto command = static_cast<std::uint16_t>(r.command);
        const bool large = payload.size() > (64 << 10);
        const auto header = agreed.style == reply_style::extended
            ? hex("21e41c71") + big(r.flags) + big(command) + big(r.cookie) + big(r.offset)
                + big(r.length)
            : request(command, r.cookie, r.offset, static_cast<std::uint32_t>(r.length), r.flags);
        receive(large ? header : header + payload);
        using intake = nbd::session::intake<opened_type, nbd::silent>;
        REQUIRE(x.in.next() == intake::finding::complete);
        REQUIRE(x.in.accept() == intake::decision::admitted);
        REQUIRE(one.begin(x) == decltype(one)::beginning::begun);
        REQUIRE(one.awaits_payload() == large);
        if (large) {
            receive(payload);
            REQUIRE_FALSE(x.in.receiving());
            one.payload_arrived(x);
        }
    }
    /// Makes its calls, as a thread of a pool does.
    std::string calls()
    {
        backend.story.clear();
        REQUIRE(one.make_calls(opened, [](std::uint64_t) { return false; }));
        return backend.story;
    }
    /// Returns its reply, and marks it as sent.
    bytes reply()
    {
        REQUIRE_FALSE(one.next());
        REQUIRE(one.fits());
        one.answer();
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

    opened_type opened;
    nbd::handshake::agreement agreed;
    nbd::session::exchange<opened_type, nbd::silent> x;
    nbd::session::job<opened_type, nbd::silent, at_once> one;
    replies& to;
    Disk& backend;
};
using working = working_on<disk, false>;
using working_at_once = working_on<disk, true>;

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

TEST_CASE("session/requests/job: a READ is read into its own memory and answered from there")
{
    // Short data are copied into the outbox, long data are lent to it.
    for (const std::size_t length : {1U, 512U, 8192U, 8193U, 200'000U}) {
        working w;
        w.begin(asking(command::read, 7, 4096, length));
        CHECK(w.one.data().data.size() == length);
        CHECK(w.calls() == "read 4096+" + std::to_string(length));
        CHECK((w.reply() == simple_reply(0, 7) + content(4096, length)));
    }
}

TEST_CASE("session/requests/job: a READ of length 0 makes no call and is answered in each style")
{
    working simple;
    simple.begin(asking(command::read, 7, 0, 0));
    CHECK(simple.calls().empty());
    CHECK(shown(simple.reply()) == shown(simple_reply(0, 7)));
    working chunks{reply_style::structured};
    CHECK(shown(chunks.whole(asking(command::read, 7, 0, 0))) == shown(chunk("00010000", 7, {})));
}

TEST_CASE("session/requests/job: the reply to a failed READ has no data, and its error")
{
    working w;
    w.backend.error = enospc;
    CHECK(shown(w.whole(asking(command::read, 7, 0, 512))) == shown(simple_reply(28, 7)));
    CHECK(shown(w.whole(asking(command::read, 8, 0, 100'000))) == shown(simple_reply(28, 8)));
}

TEST_CASE("session/requests/job: a WRITE writes the payload that was copied into its memory")
{
    working w;
    const auto payload = pattern(5000);
    w.begin(asking(command::write, 7, 512, 5000), payload);
    CHECK(w.one.data().payload.size() == 5000);
    CHECK(w.calls() == "write 512+5000");
    CHECK((w.backend.written == payload));
    CHECK(shown(w.reply()) == shown(simple_reply(0, 7)));
}

TEST_CASE("session/requests/job: with FUA, the reply comes after the flush and has its error")
{
    working w;
    w.begin(asking(command::write, 7, 512, 10, cf::fua), pattern(10));
    CHECK(w.one.next()->what == nbd::transmission::backend_call::member::write);
    w.one.completed({});
    REQUIRE(w.one.next());
    CHECK(w.one.next()->what == nbd::transmission::backend_call::member::flush);
    w.one.completed(eio);
    CHECK(shown(w.reply()) == shown(simple_reply(5, 7)));
}

TEST_CASE("session/requests/job: requests without data")
{
    working w;
    w.begin(asking(command::trim, 7, 512, 1024));
    CHECK(w.one.data().payload.empty());
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
    // From the middle of one part to the middle of another one, and a hole at the end.
    w.begin(asking(command::read, 8, disk::part - 100, 100 + disk::part * 2 + 50));
    CHECK(w.calls() == "extents 16284+32918, read 16284+100, read 32768+16384");
    CHECK((w.reply()
           == chunk("00000001", 8,
                    big(std::uint64_t{disk::part - 100}) + content(disk::part - 100, 100))
               + chunk("00000002", 8, hole) + chunk("00000001", 8, data(2 * disk::part))
               + chunk("00010002", 8, big(3 * disk::part) + big(std::uint32_t{50}))));
}

TEST_CASE("session/requests/job: extents are not queried if holes may not be left out")
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

TEST_CASE("session/requests/job: a piece that cannot be read is one error with its offset")
{
    working w{reply_style::structured};
    w.backend.bad = 2 * disk::part;
    const auto reply = w.whole(asking(command::read, 7, 0, 3 * disk::part));
    // ERROR_OFFSET, the last chunk of its reply: u32 error | u16 length | text | u64 offset
    CHECK(shown(std::span{reply}.first(8)) == "668e33ef 00018002");
    CHECK(shown(std::span{reply}.subspan(20, 4)) == "00000005");
    CHECK(shown(std::span{reply}.last(8)) == shown(big(std::uint64_t{2 * disk::part})));
}

TEST_CASE("session/requests/job: BLOCK_STATUS, and a BLOCK_STATUS with a bad payload (P66)")
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

TEST_CASE("session/requests/job: lent data are sent without a call")
{
    working_on<lending, false> w;
    const auto* const memory = w.backend.lend(0, 10'000).data();
    w.begin(asking(command::read, 7, 0, 10'000));
    CHECK_FALSE(w.one.next());
    REQUIRE(w.one.fits());
    w.one.answer();
    REQUIRE(w.to.out().pieces().size() == 2);
    CHECK(w.to.out().pieces()[1].data() == memory);
    w.to.out().clear();
    // Short data are copied behind the header.
    w.begin(asking(command::read, 8, 0, 100));
    CHECK((w.reply() == simple_reply(0, 8) + bytes(100)));
    // Either everything is lent or nothing.
    w.backend.most = 5000;
    CHECK(shown(w.whole(asking(command::read, 9, 0, 0))) == shown(simple_reply(0, 9)));
    w.begin(asking(command::read, 10, 0, 5001));
    CHECK(w.calls() == "read 0+5001");
    CHECK((w.reply() == simple_reply(0, 10) + content(0, 5001)));
}

TEST_CASE("session/requests/job: in the in-order loop a READ is read directly into the outbox")
{
    working_at_once w;
    w.begin(asking(command::read, 7, 4096, 100'000));
    REQUIRE(w.to.out().pieces().size() == 1);
    CHECK(w.one.data().data.data() + 100'000
          == static_cast<const std::byte*>(w.to.out().pieces()[0].data())
              + w.to.out().pieces()[0].size());
    CHECK(w.calls() == "read 4096+100000");
    CHECK_FALSE(w.one.must_be_sent_first());
    CHECK((w.reply() == simple_reply(0, 7) + content(4096, 100'000)));
    // If it fails, no data are sent.
    w.backend.error = enospc;
    CHECK(shown(w.whole(asking(command::read, 8, 0, 4096))) == shown(simple_reply(28, 8)));
    // A READ that the outbox cannot hold is read into the job's own memory until it is sent.
    w.backend.error = {};
    w.begin(asking(command::read, 9, 0, 200'000));
    CHECK(w.calls() == "read 0+200000");
    CHECK(w.one.must_be_sent_first());
    CHECK((w.reply() == simple_reply(0, 9) + content(0, 200'000)));
}

TEMPLATE_TEST_CASE("session/requests/job: a large WRITE is received, then written or refused", "",
                   working, working_at_once)
{
    TestType w;
    const auto payload = pattern(100'000);
    w.begin(asking(command::write, 7, 512, 100'000, cf::fua), payload);
    CHECK(w.calls() == "write 512+100000, flush");
    CHECK((w.backend.written == payload));
    CHECK(shown(w.reply()) == shown(simple_reply(0, 7)));
    w.opened.shrunk = 4096;
    w.one.payload_arrived(w.x);
    CHECK(shown(w.reply()) == shown(simple_reply(28, 7)));
    w.opened.removed = true;
    w.one.payload_arrived(w.x);
    CHECK(shown(w.reply()) == shown(simple_reply(108, 7)));
}

TEST_CASE("session/requests/job: in the in-order loop a large WRITE is received into lent memory")
{
    working_on<receiving, true> w;
    const auto payload = pattern(100'000);
    w.begin(asking(command::write, 7, 512, 100'000), payload);
    CHECK(w.backend.story == "written 512+100000");
    CHECK(w.calls().empty());
    CHECK(std::equal(payload.begin(), payload.end(), w.backend.memory.begin() + 512));
    CHECK(shown(w.reply()) == shown(simple_reply(0, 7)));
    w.begin(asking(command::write, 8, 512, 100'000, cf::fua), payload);
    CHECK(w.calls() == ", flush");
    CHECK(shown(w.reply()) == shown(simple_reply(0, 8)));
    // In the windowed loop the payload is received into the job's own memory.
    working_on<receiving, false> waits;
    waits.begin(asking(command::write, 9, 512, 100'000), payload);
    CHECK(waits.calls() == "write 512+100000");
}

TEMPLATE_TEST_CASE("session/requests/job: RESIZE is a call of the export", "", working,
                   working_at_once)
{
    TestType w;
    w.begin(asking(command::resize, 7, 4096, 0));
    CHECK(w.one.is_resize());
    CHECK_FALSE(w.one.next());
    CHECK(w.calls().empty());
    CHECK_FALSE(w.one.is_resize());
    CHECK(shown(w.reply()) == shown(simple_reply(0, 7)));
    w.backend.error = enospc;
    CHECK(shown(w.whole(asking(command::resize, 8, 4096, 0))) == shown(simple_reply(28, 8)));
}

TEST_CASE("session/requests/job: a request that was begun can still be refused")
{
    working w;
    w.one.refuse(asking(command::write, 7, 0, 512), w.to, error_value::eperm);
    CHECK(w.calls().empty());
    CHECK(shown(w.reply()) == shown(simple_reply(1, 7)));
    w.begin(asking(command::write, 7, 0, 512), pattern(512));
    w.one.refuse(error_value::eshutdown);
    CHECK(w.calls().empty());
    CHECK(shown(w.reply()) == shown(simple_reply(108, 7)));
    CHECK((w.whole(asking(command::read, 8, 0, 512)) == simple_reply(0, 8) + content(0, 512)));
    // An outcome without a call.
    w.begin(asking(command::read, 10, 0, 512));
    w.one.settle(enospc);
    CHECK_FALSE(w.one.next());
    CHECK(shown(w.reply()) == shown(simple_reply(28, 10)));
    // The data prepared in the outbox are removed.
    working_at_once at_once;
    at_once.begin(asking(command::read, 11, 0, 512));
    at_once.one.settle(enospc);
    CHECK(shown(at_once.reply()) == shown(simple_reply(28, 11)));
}

TEMPLATE_TEST_CASE("session/requests/job: a request is answered alike after any other request", "",
                   working, working_at_once)
{
    using tested = TestType;
    using kind = std::function<bytes(tested&, std::uint64_t)>;
    const std::vector<kind> kinds{
        [](tested& w, std::uint64_t c) { return w.whole(asking(command::read, c, 512, 100)); },
        [](tested& w, std::uint64_t c) {
            return w.whole(asking(command::read, c, 0, 4 * disk::part));
        },
        [](tested& w, std::uint64_t c) { return w.whole(asking(command::read, c, 0, 0)); },
        [](tested& w, std::uint64_t c) {
            return w.whole(asking(command::write, c, 0, 700, cf::fua), pattern(700));
        },
        [](tested& w, std::uint64_t c) { return w.whole(asking(command::trim, c, 0, 512)); },
        [](tested& w, std::uint64_t c) {
            return w.whole(asking(command::block_status, c, 0, 4 * disk::part));
        },
        [](tested& w, std::uint64_t c) { return w.whole(asking(command::read, c, 0, 300'000)); },
        [](tested& w, std::uint64_t c) {
            return w.whole(asking(command::write, c, 0, 100'000), pattern(100'000));
        },
        [](tested& w, std::uint64_t c) {
            w.one.refuse(asking(command::read, c, 0, 1 << 30), w.to, error_value::einval);
            return w.reply();
        },
        [](tested& w, std::uint64_t c) { return w.whole(asking(command::resize, c, 0, 0)); },
        [](tested& w, std::uint64_t c) {
            w.backend.error = eio;
            auto reply = w.whole(asking(command::read, c, 0, 4 * disk::part));
            w.backend.error = {};
            return reply;
        },
        [](tested& w, std::uint64_t c) {
            w.backend.error = eio;
            auto reply = w.whole(asking(command::block_status, c, 0, 512));
            w.backend.error = {};
            return reply;
        },
        [](tested& w, std::uint64_t c) {
            w.backend.error = enospc;
            auto reply = w.whole(asking(command::trim, c, 0, 512));
            w.backend.error = {};
            return reply;
        },
    };
    for (const auto style : {reply_style::simple, reply_style::structured}) {
        tested used{style};
        std::uint64_t cookie = 0;
        for (std::size_t before = 0; before < kinds.size(); ++before)
            for (std::size_t after = 0; after < kinds.size(); ++after) {
                CAPTURE(before, after);
                std::ignore = kinds[before](used, ++cookie);
                tested fresh{style};
                ++cookie;
                REQUIRE((kinds[after](used, cookie) == kinds[after](fresh, cookie)));
            }
    }
}

TEST_CASE("session/requests/job: its memory is held until the reply has been sent, and no longer")
{
    // A new block of that size has other memory if the job holds the known one.
    const auto* const known = block{300'000}.data();
    const auto is_held = [known] { return block{300'000}.data() != known; };
    working w;
    w.begin(asking(command::read, 7, 0, 300'000));
    CHECK(is_held());
    std::ignore = w.calls();
    w.one.answer();
    CHECK(is_held());
    w.one.done();
    CHECK_FALSE(is_held());
    w.to.out().clear();
    w.begin(asking(command::write, 7, 0, 300'000), bytes(300'000));
    CHECK(is_held());
    // The next request, which needs no memory, frees it, too.
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
    // Copied data need space, as the header does.
    w.begin(asking(command::read, 7, 0, 2000));
    std::ignore = w.calls();
    fill(replies::most_header + 2000);
    CHECK(w.one.fits());
    w.one.answer();
    fill(replies::most_header + 1999);
    CHECK_FALSE(w.one.fits());
    // Lent data do not.
    w.begin(asking(command::read, 7, 0, 200'000));
    std::ignore = w.calls();
    fill(replies::most_header + replies::copied_data);
    CHECK(w.one.fits());
    w.one.answer();
    w.begin(asking(command::trim, 7, 0, 512));
    std::ignore = w.calls();
    fill(replies::most_header);
    CHECK(w.one.fits());
    fill(replies::most_header - 1);
    CHECK_FALSE(w.one.fits());
    out.clear();
    CHECK(w.one.fits());
}

TEST_CASE("session/requests/job: a reply without its holes has many pieces and is sent by itself")
{
    working w{reply_style::structured};
    w.begin(asking(command::read, 7, 0, 4 * disk::part));
    std::ignore = w.calls();
    std::ignore = w.to.out().append(1);
    CHECK_FALSE(w.one.fits());
    w.to.out().clear();
    CHECK(w.one.fits());
    // A refused request needs only space for an error.
    w.one.refuse(error_value::eshutdown);
    std::ignore = w.to.out().append(1);
    CHECK(w.one.fits());
    w.to.out().clear();
}

TEST_CASE("session/requests/job: an outbox that is full of pieces accepts no lent data")
{
    working_on<lending, false> w;
    w.begin(asking(command::read, 7, 0, 10'000));
    std::size_t replies_in = 0;
    while (w.one.fits()) {
        w.one.answer();
        REQUIRE(++replies_in <= nbd::session::outbox::max_pieces);
    }
    CHECK(w.to.out().pieces().size() == 2 * replies_in);
    CHECK_FALSE(w.to.out().fits(1, 1));
    w.to.out().clear();
}

TEST_CASE("session/requests/job: a READ longer than a chunk needs space for each of its chunks")
{
    // Exports may allow it: block_sizes::maximum has no bound. Nothing reads the memory here.
    working_on<lending, false> w{reply_style::structured};
    w.begin(asking(command::read, 7, 0, 10'000));
    while (w.to.out().fits(replies::most_header, 2))
        w.one.answer();
    constexpr std::size_t length = 2 * replies::largest_chunk;
    w.begin(asking(command::read, 7, 0, length));
    CHECK_FALSE(w.one.fits());  // it would write past the end of the outbox's pieces
    w.to.out().clear();
}

TEST_CASE("session/requests/job: the longest READ that is admitted fits into an empty outbox")
{
    // Nothing reads the memory here.
    working_on<lending, false> w{reply_style::structured};
    constexpr auto length = static_cast<std::size_t>(replies::largest_read);
    w.begin(asking(command::read, 7, 0, length));
    CHECK(w.one.fits());
    w.one.answer();
    CHECK(w.to.out().pieces().size() == 2 * length / replies::largest_chunk);
    w.to.out().clear();
}
