// SPDX-License-Identifier: MIT
// The call by itself; the outcome of a handler is tested in
// transmission/execution_outcome.test.cpp.
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/vocabulary/call.hpp>

using namespace nbd_test;
static_assert(!std::is_copy_constructible_v<nbd::call> && !std::is_polymorphic_v<nbd::call>);

TEST_CASE("vocabulary/call: data follow what was sent, and never exceed the end")
{
    const nbd::protocol::request r{.command = nbd::protocol::command::read, .length = 4};
    bytes memory(6, std::byte{0xee});
    nbd::call c{r, {}, std::span{memory}.first(4)};
    CHECK(c.result() == std::errc::io_error);
    c.send(hex("0102"));
    CHECK(c.space().size() == 2);
    CHECK(c.result() == std::errc::io_error);
    c.sent(100);
    CHECK(c.space().empty());
    CHECK_FALSE(c.result());
    c.send(hex("03"));
    CHECK(c.result() == std::errc::io_error);
    CHECK(shown(memory) == "0102eeee eeee");
}
