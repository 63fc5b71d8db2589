// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/handshake/agreement.hpp>

using nbd::handshake::agree;
using nbd::handshake::selected_context;
using nbd::protocol::export_terms;
using nbd::protocol::reply_style;
using namespace nbd::protocol::transmission_flag;

namespace {
const export_terms disk{
    .size = 4096, .flags = has_flags | send_flush, .blocks = {512, 4096, 1 << 20}};
const std::vector<selected_context> one{{.id = 1, .index = 0}};
}  // namespace

TEST_CASE("handshake/agreement: the agreement has the export's terms")
{
    const auto a = agree(disk, reply_style::simple, {});
    CHECK(a.terms.size == 4096);
    CHECK(a.terms.told == 4096);
    CHECK(a.terms.blocks == nbd::protocol::block_sizes{512, 4096, 1 << 20});
    CHECK(a.terms.flags == (has_flags | send_flush));
    CHECK(a.style == reply_style::simple);
    CHECK(a.contexts.empty());
    CHECK_FALSE(a.terms.block_status);
}

TEST_CASE("handshake/agreement: SEND_DF requires structured replies or extended headers (P46)")
{
    CHECK_FALSE(agree(disk, reply_style::simple, {}).terms.has(send_df));
    CHECK(agree(disk, reply_style::structured, {}).terms.has(send_df));
    CHECK(agree(disk, reply_style::extended, {}).terms.has(send_df));
}

TEST_CASE("handshake/agreement: BLOCK_STATUS_PAYLOAD requires extended headers and selected "
          "contexts (P46)")
{
    CHECK_FALSE(agree(disk, reply_style::structured, one).terms.has(block_status_payload));
    CHECK_FALSE(agree(disk, reply_style::extended, {}).terms.has(block_status_payload));
    CHECK(agree(disk, reply_style::extended, one).terms.has(block_status_payload));
}

TEST_CASE("handshake/agreement: BLOCK_STATUS needs selected contexts (P66)")
{
    CHECK_FALSE(agree(disk, reply_style::structured, {}).terms.block_status);
    const auto a = agree(disk, reply_style::structured, one);
    CHECK(a.terms.block_status);
    CHECK(a.contexts == one);
}
