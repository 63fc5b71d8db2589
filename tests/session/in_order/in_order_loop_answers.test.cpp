// SPDX-License-Identifier: MIT
// The in-order loop over a script: the replies, the number of sends, and the end.
#include "catch.hpp"
#include "support/session.hpp"

using namespace nbd_test;

namespace {
constexpr std::uint16_t read_ = 0, write_ = 1, flush_ = 3;
constexpr std::uint32_t large = 100'000;  // more than is buffered in the inbox
constexpr std::size_t disk_size = 1 << 20;

bytes part(const bytes& all, std::size_t offset, std::size_t n)
{
    const auto at = all.begin() + static_cast<std::ptrdiff_t>(offset);
    return {at, at + static_cast<std::ptrdiff_t>(n)};
}

/// Lends for WRITE, and has a FUA flag but no flush.
struct native_fua_disk {
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    std::uint64_t size() const { return state->content.size(); }
    void read(std::uint64_t, std::span<std::byte>) {}
    void write(std::uint64_t offset, std::span<const std::byte> from, nbd::write_flags flags)
    {
        state->note(flags.fua ? "write!" : "write", offset, from.size());
    }
    std::span<std::byte> lend_for_write(std::uint64_t offset, std::size_t length) noexcept
    {
        return std::span{state->content}.subspan(offset, length);
    }
    disk_state* state;
};
}  // namespace

TEST_CASE(
    "session/in_order/in_order_loop: requests that arrive together are answered in one send (P53)")
{
    disk_state state{disk_size};
    one_client<copying_disk> client{copying_disk{state}};
    client.transmit(request(read_, 1, 0, 4) + request(write_, 2, 4, 3) + hex("aabbcc")
                    + request(flush_, 3, 0, 0) + request(read_, 4, 2, 6));
    CHECK(client.stream->sends.size() == 1);
    CHECK(client.heard()
          == shown(simple_reply(0, 1) + part(pattern(disk_size), 0, 4) + simple_reply(0, 2)
                   + simple_reply(0, 3) + simple_reply(0, 4) + part(state.content, 2, 6)));
    CHECK(shown(part(state.content, 4, 3)) == "aabbcc");
    CHECK(state.story() == "read 0+4, write 4+3, flush, read 2+6");
    CHECK_FALSE(client.ended());
}

TEST_CASE("session/in_order/in_order_loop: cookies are returned unchanged (P52, R27)")
{
    disk_state state{disk_size};
    one_client<copying_disk> client{copying_disk{state}};
    client.transmit(request(flush_, 0, 0, 0) + request(flush_, ~0ULL, 0, 0)
                    + request(flush_, 0x0123456789abcdef, 0, 0) + request(flush_, 0, 0, 0));
    CHECK(client.heard()
          == shown(simple_reply(0, 0) + simple_reply(0, ~0ULL) + simple_reply(0, 0x0123456789abcdef)
                   + simple_reply(0, 0)));
}

TEST_CASE("session/in_order/in_order_loop: many replies are sent in order, in any number of sends")
{
    disk_state state{disk_size};
    const auto run = [&](auto disk, std::uint32_t length, std::uint64_t count) {
        one_client<decltype(disk)> client{disk};
        bytes asked;
        bytes expected;
        for (std::uint64_t i = 0; i < count; ++i) {
            asked = asked + request(read_, i, i, length);
            expected = expected + simple_reply(0, i) + part(state.content, i, length);
        }
        client.transmit(asked);
        CHECK((client.stream->heard() == expected));
        return client.stream->sends.size();
    };
    // As many as fit into one send, with lent memory or without.
    CHECK(run(lending_disk{state}, 16'384, 100) == 3);
    CHECK(run(lending_disk{state}, 4096, 64) == 2);
    // The first half is sent early, so that the client can go on.
    CHECK(run(lending_disk{state}, 16'384, 31) == 2);
    CHECK(run(lending_disk{state}, 4096, 100) == 3);
    CHECK(run(lending_disk{state}, 4096, 16) == 2);
    CHECK(run(copying_disk{state}, 4096, 16) == 2);
    CHECK(run(copying_disk{state}, 4096, 7) == 1);
    CHECK(run(copying_disk{state}, 4096, 100) >= 4);
    CHECK(run(copying_disk{state}, large, 10) >= 10);
    CHECK(run(copying_disk{state}, 1, 5000) >= 1);
}

TEST_CASE("session/in_order/in_order_loop: READs of every size near a limit are exact (P59, "
          "CVE-2005-3534)")
{
    disk_state state{disk_size};
    for (const std::uint32_t near : {4096U, 8192U, 65'536U, 131'072U, 133'120U, 524'288U}) {
        for (std::uint32_t length = near - 17; length <= near + 17; ++length) {
            const auto asked = request(read_, 1, 7, length) + request(flush_, 2, 0, 0);
            const auto expected =
                simple_reply(0, 1) + part(state.content, 7, length) + simple_reply(0, 2);
            one_client<copying_disk> copying{copying_disk{state}};
            one_client<lending_disk> lending{lending_disk{state}};
            REQUIRE((copying.transmit(asked).heard() == expected));
            REQUIRE((lending.transmit(asked).heard() == expected));
        }
    }
}

TEMPLATE_TEST_CASE(
    "session/in_order/in_order_loop: WRITEs of every size near a limit are exact (P60)", "",
    copying_disk, lending_disk, reluctant_disk)
{
    disk_state state{disk_size};
    for (const std::uint32_t near : {1024U, 65'536U, 131'072U, 524'288U}) {
        for (std::uint32_t length = near - 29; length <= near + 29; length += 2) {
            const auto payload = pattern(length, length);
            one_client<TestType> client{TestType{state}};
            client.transmit(request(write_, 1, 7, length) + payload + request(read_, 2, 7, 9));
            REQUIRE((part(state.content, 7, length) == payload));
            REQUIRE(client.heard()
                    == shown(simple_reply(0, 1) + simple_reply(0, 2) + part(payload, 0, 9)));
        }
    }
    CHECK((part(state.content, 0, 7) == part(pattern(disk_size), 0, 7)));
    CHECK((part(state.content, 600'000, 1000) == part(pattern(disk_size), 600'000, 1000)));
}

TEST_CASE(
    "session/in_order/in_order_loop: a large WRITE is received in place where the backend lends "
    "(design)")
{
    disk_state state{disk_size};
    SECTION("lent memory: no write, and with FUA a flush")
    {
        one_client<lending_disk> client{lending_disk{state}};
        client.transmit(request(write_, 1, 0, large) + pattern(large, 9));
        CHECK(state.story().empty());
        client.transmit(request(write_, 2, 0, large, 1) + pattern(large, 9));
        CHECK(state.story() == "flush");
        CHECK((part(state.content, 0, large) == pattern(large, 9)));
    }
    SECTION("without lent memory: one write of the whole payload")
    {
        one_client<copying_disk> client{copying_disk{state}};
        client.transmit(request(write_, 2, 0, large, 1) + pattern(large, 9));
        CHECK(state.story() == "write 0+100000, flush");
    }
    SECTION("with FUA, a backend that needs its own FUA write does not receive in place")
    {
        one_client<native_fua_disk> client{native_fua_disk{&state}};
        client.transmit(request(write_, 1, 0, large, 1) + pattern(large, 9));
        CHECK(state.story() == "write! 0+100000");
        state.calls.clear();
        client.transmit(request(write_, 2, 0, large) + pattern(large, 9));
        CHECK(state.story().empty());
        CHECK((part(state.content, 0, large) == pattern(large, 9)));
    }
    SECTION("memory that is lent only for READ is not used for WRITE")
    {
        one_client<reluctant_disk> client{reluctant_disk{state}};
        client.transmit(request(write_, 2, 0, large) + pattern(large, 9)
                        + request(read_, 3, 0, large));
        CHECK(state.story() == "write 0+100000, read 0+100000");
    }
}
