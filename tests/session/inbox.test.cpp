// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/session/inbox.hpp>

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

TEST_CASE("session/inbox: empty at first, with all of its room")
{
    inbox in{10};
    CHECK(in.capacity() == 10);
    CHECK(in.buffered().empty());
    CHECK(in.space().size() == 10);
    in.received(0);
    CHECK(in.buffered().empty());
}

TEST_CASE("session/inbox: what was received is there until it is taken, in one piece")
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

TEST_CASE("session/inbox: bytes go through it in order, whatever the pieces")
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
