// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/session/buffers/inbox.hpp>

#include <algorithm>

using nbd::session::inbox;
using namespace nbd_test;

namespace {
void receive(inbox& in, const bytes& more)
{
    const auto space = in.space();
    REQUIRE(space.size() >= more.size());
    std::copy(more.begin(), more.end(), space.begin());
    in.received(more.size());
}
}  // namespace

TEST_CASE("session/buffers/inbox: it is empty at first, with all of its space free")
{
    inbox in{10};
    CHECK(in.capacity() == 10);
    CHECK(in.buffered().empty());
    CHECK(in.space().size() == 10);
    in.received(0);
    CHECK(in.buffered().empty());
}

TEST_CASE("session/buffers/inbox: received bytes stay until they are consumed, in one piece")
{
    inbox in{8};
    receive(in, hex("010203"));
    CHECK(shown(in.buffered()) == "010203");
    in.consume(1);
    CHECK(shown(in.buffered()) == "0203");
    CHECK(in.space().size() == 6);
    receive(in, hex("040506070809"));
    CHECK(shown(in.buffered()) == shown(hex("0203040506070809")));
    CHECK(in.space().empty());
    in.consume(8);
    CHECK(in.buffered().empty());
    CHECK(in.space().size() == 8);
}

TEST_CASE("session/buffers/inbox: bytes pass through it in order, in any pieces")
{
    const auto all = pattern(10'000);
    inbox in{97};
    bytes out;
    std::size_t at = 0;
    for (unsigned step = 1; out.size() < all.size(); step = step * 31 % 101) {
        const auto n = std::min({std::size_t{step}, all.size() - at, in.space().size()});
        receive(in,
                bytes(all.begin() + static_cast<std::ptrdiff_t>(at),
                      all.begin() + static_cast<std::ptrdiff_t>(at + n)));
        at += n;
        const auto take = std::min<std::size_t>(in.buffered().size(), 101 - step);
        out.insert(out.end(), in.buffered().begin(),
                   in.buffered().begin() + static_cast<std::ptrdiff_t>(take));
        in.consume(take);
    }
    CHECK(out == all);
}

namespace {
constexpr std::size_t small = 2048;
constexpr std::size_t large = 128 << 10;
}  // namespace

TEST_CASE("session/buffers/inbox: it starts small, and grows when it is full")
{
    inbox in{large};
    CHECK(in.capacity() == large);
    CHECK_FALSE(in.is_large());
    CHECK(in.space().size() == small);
    receive(in, pattern(small - 1));
    CHECK(in.space().size() == 1);
    CHECK_FALSE(in.is_large());
    receive(in, hex("ee"));
    CHECK_FALSE(in.is_large());
    CHECK(in.space().size() == large - small);
    CHECK(in.is_large());
    CHECK((bytes(in.buffered().begin(), in.buffered().end()) == pattern(small - 1) + hex("ee")));
    receive(in, pattern(large - small, 2));
    CHECK(in.space().empty());
    CHECK((bytes(in.buffered().begin(), in.buffered().end())
           == pattern(small - 1) + hex("ee") + pattern(large - small, 2)));
}

TEST_CASE("session/buffers/inbox: it grows only for a request of more space in one piece")
{
    inbox in{large};
    receive(in, pattern(100));
    in.consume(40);
    CHECK(in.space(small).size() == small - 60);
    CHECK_FALSE(in.is_large());
    CHECK(in.space(small + 1).size() == large - 60);
    CHECK(in.is_large());
    const auto all = pattern(100);
    CHECK(
        (bytes(in.buffered().begin(), in.buffered().end()) == bytes(all.begin() + 40, all.end())));
    CHECK(in.space(large).size() == large - 60);
}

TEST_CASE("session/buffers/inbox: it grows after it was filled, also if all was consumed")
{
    inbox in{large};
    receive(in, pattern(small));
    in.consume(small);
    CHECK(in.buffered().empty());
    CHECK(in.space().size() == large);
}

TEST_CASE("session/buffers/inbox: it can shrink when it is empty, and stays usable")
{
    inbox in{large};
    std::ignore = in.space(large);
    CHECK(in.is_large());
    receive(in, pattern(5000));
    in.consume(4999);
    in.shrink();  // no effect: it is not empty
    CHECK(in.is_large());
    CHECK(shown(in.buffered()) == shown(bytes{pattern(5000).back()}));
    in.consume(1);
    in.shrink();
    CHECK_FALSE(in.is_large());
    CHECK(in.buffered().empty());
    CHECK(in.space().size() == small);
    receive(in, hex("010203"));
    CHECK(shown(in.buffered()) == "010203");
    in.consume(3);
    in.shrink();
    CHECK(in.space().size() == small);
    CHECK(in.space(small + 1).size() == large);
}

TEST_CASE("session/buffers/inbox: it holds memory of its own only while it is large")
{
    // A new block of that size has other memory if the inbox holds the known one.
    const auto* const known = nbd::session::block{large}.data();
    inbox in{large};
    CHECK(nbd::session::block{large}.data() == known);
    std::ignore = in.space(large);
    CHECK(nbd::session::block{large}.data() != known);
    in.shrink();
    const nbd::session::block first{large};
    const nbd::session::block second{large};
    CHECK((first.data() == known || second.data() == known));
}

TEST_CASE("session/buffers/inbox: bytes pass through it in order while it grows and shrinks")
{
    const auto all = pattern(300'000);
    inbox in{4096};
    bytes out;
    std::size_t at = 0;
    int grown = 0;
    for (unsigned step = 1; out.size() < all.size(); step = step * 31 % 4099) {
        const bool before = in.is_large();
        const auto room = in.space(step % 4096).size();
        grown += in.is_large() && !before ? 1 : 0;
        REQUIRE(in.buffered().size() + room >= step % 4096);
        const auto n = std::min({std::size_t{step}, all.size() - at, room});
        receive(in,
                bytes(all.begin() + static_cast<std::ptrdiff_t>(at),
                      all.begin() + static_cast<std::ptrdiff_t>(at + n)));
        at += n;
        const auto take = std::min<std::size_t>(in.buffered().size(), step * 3 % 4099);
        out.insert(out.end(), in.buffered().begin(),
                   in.buffered().begin() + static_cast<std::ptrdiff_t>(take));
        in.consume(take);
        in.shrink();
    }
    CHECK((out == all));
    CHECK(grown > 10);
}
