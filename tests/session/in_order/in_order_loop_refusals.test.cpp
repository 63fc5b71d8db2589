// SPDX-License-Identifier: MIT
// The in-order loop over a script: refusals, failures, and the end.
#include "catch.hpp"
#include "support/session.hpp"

#include <limits>

using namespace nbd_test;
using nbd::errc;

namespace {
constexpr std::uint16_t read_ = 0, write_ = 1, disc = 2, flush_ = 3, trim_ = 4, cache_ = 5;
constexpr std::uint32_t eperm = 1, eio = 5, einval = 22, enospc = 28, eshutdown = 108;
constexpr std::uint32_t large = 100'000;  // more than is buffered in the inbox
constexpr std::size_t disk_size = 1 << 20;

bytes part(const bytes& all, std::size_t offset, std::size_t n)
{
    const auto at = all.begin() + static_cast<std::ptrdiff_t>(offset);
    return {at, at + static_cast<std::ptrdiff_t>(n)};
}
}  // namespace

TEST_CASE("session/in_order/in_order_loop: a refused WRITE's payload is consumed, and the next "
          "request works (P60, R06, R09, R13)")
{
    disk_state state{disk_size};
    nbd::export_settings e;
    e.blocks = nbd::block_sizes{512, 4096, 65'536};
    one_client<copying_disk> client{copying_disk{state}, e};
    const auto refused = [&](std::uint64_t offset, std::uint32_t length, std::uint16_t flags,
                             std::uint32_t error, pace p) {
        // A payload that looks like requests must not be parsed as one.
        const auto decoy = request(write_, 66, 0, 512);
        bytes payload;
        while (payload.size() < length)
            payload.insert(payload.end(), decoy.begin(), decoy.end());
        payload.resize(length);
        client.transmit(
            request(write_, 1, offset, length, flags) + payload + request(flush_, 2, 0, 0), p);
        CHECK(client.heard() == shown(simple_reply(error, 1) + simple_reply(0, 2)));
        CHECK(state.story() == "flush");
        state.calls.clear();
    };
    for (const pace p : {pace{}, pace{.read = 1000}}) {
        refused(disk_size, 512, 0, enospc, p);
        refused(disk_size - 512, 1024, 0, enospc, p);
        refused(~0ULL, 512, 0, enospc, p);
        refused(~0ULL - 511, 1024, 0, enospc, p);
        refused(1, 512, 0, einval, p);
        refused(0, 513, 0, einval, p);
        refused(0, 512, 4, einval, p);
        refused(0, 65'536 + 512, 0, einval, p);
        refused(0, disk_size, 0, einval, p);
        refused(0, large, 0x8000, einval, p);
        refused(disk_size, 3'000'000, 0, enospc, p);
    }
    CHECK((state.content == pattern(disk_size)));
}

TEST_CASE(
    "session/in_order/in_order_loop: a read-only export answers EPERM and consumes the payload "
    "(P46, R22)")
{
    disk_state state{disk_size};
    nbd::export_settings e;
    e.read_only = true;
    one_client<lending_disk> client{lending_disk{state}, e};
    client.transmit(request(write_, 1, 0, 3) + hex("aabbcc") + request(write_, 2, 0, large)
                    + pattern(large, 3) + request(trim_, 3, 0, 1) + request(6, 4, 0, 1)
                    + request(write_, 5, 0, 0) + request(read_, 6, 0, 2));
    CHECK(client.heard()
          == shown(simple_reply(eperm, 1) + simple_reply(eperm, 2) + simple_reply(eperm, 3)
                   + simple_reply(eperm, 4) + simple_reply(eperm, 5) + simple_reply(0, 6)
                   + part(state.content, 0, 2)));
    CHECK((state.content == pattern(disk_size)));
    CHECK(state.calls.empty());
}

TEST_CASE("session/in_order/in_order_loop: 32 MiB of refused payload are consumed, more ends the "
          "session (P78, R10)")
{
    disk_state state{disk_size};
    one_client<copying_disk> client{copying_disk{state}};
    const std::uint32_t most = 32 << 20;
    client.transmit(request(write_, 1, 0, most) + bytes(most) + request(flush_, 2, 0, 0));
    CHECK(client.heard() == shown(simple_reply(enospc, 1) + simple_reply(0, 2)));
    CHECK_FALSE(client.ended());

    for (const std::uint32_t length : {most + 1, std::numeric_limits<std::uint32_t>::max()}) {
        client.transmit(request(flush_, 1, 0, 0) + request(write_, 2, 0, length)
                        + request(flush_, 3, 0, 0));
        CHECK(client.heard() == shown(simple_reply(0, 1)));
        CHECK(client.ended() == errc::payload_too_long);
    }
}

TEST_CASE("session/in_order/in_order_loop: a bad magic ends the session, after the replies to "
          "earlier requests (P47, R01)")
{
    disk_state state{disk_size};
    one_client<copying_disk> client{copying_disk{state}};
    auto bad = request(flush_, 2, 0, 0);
    bad[3] ^= std::byte{1};
    client.transmit(request(read_, 1, 0, 4) + bad + request(flush_, 3, 0, 0));
    CHECK(client.heard() == shown(simple_reply(0, 1) + part(state.content, 0, 4)));
    CHECK(client.ended() == errc::bad_request_magic);
    CHECK(state.story() == "read 0+4");
}

TEST_CASE("session/in_order/in_order_loop: DISC is not answered and ends the session cleanly, "
          "after earlier replies (P61, R28)")
{
    disk_state state{disk_size};
    one_client<copying_disk> client{copying_disk{state}};
    client.transmit(request(read_, 1, 0, 4) + request(disc, 2, 0, 0) + request(write_, 3, 0, 1)
                    + hex("ff"));
    CHECK(client.heard() == shown(simple_reply(0, 1) + part(state.content, 0, 4)));
    CHECK_FALSE(client.ended());
    CHECK(state.story() == "read 0+4");

    client.transmit(request(disc, 1, 77, 88, 0xffff));
    CHECK(client.stream->sends.empty());
    CHECK_FALSE(client.ended());
}

TEST_CASE("session/in_order/in_order_loop: unknown and unsupported commands are EINVAL and carry "
          "no payload (R14, R26)")
{
    disk_state state{disk_size};
    one_client<copying_disk> client{copying_disk{state}};
    bytes asked;
    bytes expected;
    std::uint64_t cookie = 0;
    for (const std::uint16_t c : {cache_, std::uint16_t{7}, std::uint16_t{8}, std::uint16_t{9},
                                  std::uint16_t{0x7fff}, std::uint16_t{0xffff}}) {
        for (const std::uint32_t length : {0U, 4096U, 0xffffffffU}) {
            asked = asked + request(c, ++cookie, 0, length);
            expected = expected + simple_reply(einval, cookie);
        }
    }
    CHECK((client.transmit(asked).heard() == expected));
    CHECK_FALSE(client.ended());
}

TEST_CASE("session/in_order/in_order_loop: requests of length 0 succeed without a call of the "
          "backend (P68, R03)")
{
    disk_state state{disk_size};
    const auto asked = request(read_, 1, 0, 0) + request(write_, 2, 5, 0) + request(trim_, 3, 9, 0)
        + request(6, 4, 9, 0) + request(read_, 5, disk_size, 0)
        + request(read_, 6, disk_size + 1, 0);
    const auto expected = simple_reply(0, 1) + simple_reply(0, 2) + simple_reply(0, 3)
        + simple_reply(0, 4) + simple_reply(0, 5) + simple_reply(einval, 6);
    one_client<copying_disk> copying{copying_disk{state}};
    CHECK((copying.transmit(asked).heard() == expected));
    CHECK(state.calls.empty());
}

TEST_CASE("session/in_order/in_order_loop: a failing backend is an error reply, and the connection "
          "stays (P59, P89)")
{
    disk_state state{disk_size};
    state.error = std::make_error_code(std::errc::no_space_on_device);
    const auto asked = request(read_, 1, 0, 4) + request(write_, 2, 0, 4) + hex("01020304")
        + request(flush_, 3, 0, 0) + request(read_, 4, 0, large) + request(write_, 5, 0, large)
        + pattern(large) + request(read_, 6, 1, 70'000) + request(disc, 7, 0, 0);
    bytes expected;
    for (std::uint64_t cookie = 1; cookie <= 6; ++cookie)
        expected = expected + simple_reply(enospc, cookie);
    one_client<copying_disk> client{copying_disk{state}};
    CHECK(shown(client.transmit(asked).heard()) == shown(expected));
    CHECK_FALSE(client.ended());
}

TEST_CASE("session/in_order/in_order_loop: a throwing backend is an error reply as well (B02)")
{
    struct throwing {
        std::uint64_t size() const { return disk_size; }
        void read(std::uint64_t, std::span<std::byte>) { throw 1; }
        void write(std::uint64_t, std::span<const std::byte>) { throw std::bad_alloc{}; }
        void flush()
        {
            throw std::system_error{std::make_error_code(std::errc::no_space_on_device)};
        }
    };
    one_client<throwing> client{throwing{}};
    client.transmit(request(read_, 1, 0, 4) + request(write_, 2, 0, 4) + hex("01020304")
                    + request(flush_, 3, 0, 0) + request(read_, 4, 0, 300'000));
    CHECK(client.heard()
          == shown(simple_reply(eio, 1) + simple_reply(12, 2) + simple_reply(enospc, 3)
                   + simple_reply(eio, 4)));
    CHECK_FALSE(client.ended());
}

TEST_CASE("session/in_order/in_order_loop: a stopping server and a removed export answer ESHUTDOWN "
          "(P88, L07)")
{
    disk_state state{disk_size};
    one_client<copying_disk> client{copying_disk{state}};
    SECTION("stopping")
    {
        client.stopping = true;
    }
    SECTION("removed")
    {
        client.remove_first = true;
    }
    client.transmit(request(read_, 1, 0, 4) + request(write_, 2, 0, 4) + hex("01020304")
                    + request(flush_, 3, 0, 0) + request(write_, 4, 0, large) + bytes(large)
                    + request(99, 5, ~0ULL, 1) + request(disc, 6, 0, 0));
    bytes expected;
    for (std::uint64_t cookie = 1; cookie <= 5; ++cookie)
        expected = expected + simple_reply(eshutdown, cookie);
    CHECK(client.heard() == shown(expected));
    CHECK(state.calls.empty());
    CHECK_FALSE(client.ended());
}

TEST_CASE("session/in_order/in_order_loop: the end of the stream is clean only between requests "
          "(R02, R11)")
{
    disk_state state{disk_size};
    one_client<copying_disk> client{copying_disk{state}};
    client.transmit({});
    CHECK_FALSE(client.ended());
    client.transmit(request(flush_, 1, 0, 0));
    CHECK_FALSE(client.ended());
    const auto whole = request(write_, 1, 0, 10) + pattern(10, 5);
    for (std::size_t n = 1; n < whole.size(); ++n) {
        client.transmit(part(whole, 0, n));
        CHECK(client.ended() == errc::cut_short);
        CHECK(client.stream->sends.empty());
    }
    // a large payload, and a payload that is skipped
    client.transmit(request(write_, 1, 0, large) + bytes(large - 1));
    CHECK(client.ended() == errc::cut_short);
    client.transmit(request(write_, 1, disk_size, large) + bytes(large - 1));
    CHECK(client.ended() == errc::cut_short);
    CHECK(client.heard().empty());  // no reply to an incomplete request
    client.transmit(request(write_, 1, disk_size, large) + bytes(large));
    CHECK(client.heard() == shown(simple_reply(enospc, 1)));
    CHECK(state.story() == "flush");
    CHECK((state.content == pattern(disk_size)));
}

TEST_CASE("session/in_order/in_order_loop: a backend that takes each request whole")
{
    struct handler {
        std::uint64_t size() const { return disk_size; }
        void handle(nbd::call& c)
        {
            if (c.offset() == 13)
                return c.fail(std::make_error_code(std::errc::no_space_on_device));
            for (auto& b : c.space())
                b = std::byte{0x77};
            c.sent(c.space().size());
        }
    };
    one_client<handler> client{handler{}};
    client.transmit(request(read_, 1, 0, 3) + request(write_, 2, 0, 2) + hex("0102")
                    + request(flush_, 3, 0, 0, 1) + request(read_, 4, 13, 3)
                    + request(write_, 5, 13, large) + bytes(large) + request(cache_, 6, 0, 1)
                    + request(read_, 7, 14, 1));
    CHECK(client.heard()
          == shown(simple_reply(0, 1) + hex("777777") + simple_reply(0, 2) + simple_reply(0, 3)
                   + simple_reply(enospc, 4) + simple_reply(enospc, 5) + simple_reply(0, 6)
                   + simple_reply(0, 7) + hex("77")));
}
