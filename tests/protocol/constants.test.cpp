// SPDX-License-Identifier: MIT
// Every value against the specification's own notation (doc/proto.md, "Values").
#include "catch.hpp"
#include <nbd/protocol/constants.hpp>

#include <bit>
#include <type_traits>

using namespace nbd::protocol;

// proto.md gives flags as "bit 0" and numbers as they stand on the wire.
static_assert(init_magic == 0x4e42444d41474943 && option_magic == 0x49484156454F5054);
static_assert(option_reply_magic == 0x3e889045565a9);
static_assert(request_magic == 0x25609513 && simple_reply_magic == 0x67446698);
static_assert(structured_reply_magic == 0x668e33ef);
static_assert(extended_request_magic == 0x21e41c71 && extended_reply_magic == 0x6e8a278c);

// point 51: reserved, never to be used
static_assert(request_magic != 0x12560953 && simple_reply_magic != 0x96744668);

static_assert(greeting_bytes == 8 + 8 + 2 && client_flags_bytes == 4);
static_assert(option_header_bytes == 8 + 4 + 4 && option_reply_header_bytes == 8 + 4 + 4 + 4);
static_assert(request_bytes == 4 + 2 + 2 + 8 + 8 + 4 && simple_reply_bytes == 4 + 4 + 8);
static_assert(structured_chunk_bytes == 4 + 2 + 2 + 8 + 4);
static_assert(extended_request_bytes == 4 + 2 + 2 + 8 + 8 + 8);
static_assert(extended_chunk_bytes == 4 + 2 + 2 + 8 + 8 + 8);
static_assert(export_name_padding_bytes == 124 && max_string_bytes == 4096);
static_assert(default_port == 10809);
static_assert(default_minimum_block == 1 && default_preferred_block == 4096);
static_assert(default_maximum_payload == 33'554'432);

static_assert(handshake_flag::fixed_newstyle == 1 && handshake_flag::no_zeroes == 2);
static_assert(client_flag::fixed_newstyle == 1 && client_flag::no_zeroes == 2);

namespace tf = transmission_flag;
static_assert(tf::has_flags == 0x0001 && tf::read_only == 0x0002 && tf::send_flush == 0x0004);
static_assert(tf::send_fua == 0x0008 && tf::rotational == 0x0010 && tf::send_trim == 0x0020);
static_assert(tf::send_write_zeroes == 0x0040 && tf::send_df == 0x0080);
static_assert(tf::can_multi_conn == 0x0100 && tf::send_resize == 0x0200);
static_assert(tf::send_cache == 0x0400 && tf::send_fast_zero == 0x0800);
static_assert(tf::block_status_payload == 0x1000);

static_assert(std::is_same_v<std::underlying_type_t<option>, std::uint32_t>);
static_assert(static_cast<int>(option::export_name) == 1 && static_cast<int>(option::abort) == 2);
static_assert(static_cast<int>(option::list) == 3 && static_cast<int>(option::peek_export) == 4);
static_assert(static_cast<int>(option::starttls) == 5 && static_cast<int>(option::info) == 6);
static_assert(static_cast<int>(option::go) == 7 && static_cast<int>(option::structured_reply) == 8);
static_assert(static_cast<int>(option::list_meta_context) == 9);
static_assert(static_cast<int>(option::set_meta_context) == 10);
static_assert(static_cast<int>(option::extended_headers) == 11);

constexpr std::uint32_t number(option_reply r)
{
    return static_cast<std::uint32_t>(r);
}
static_assert(number(option_reply::ack) == 1 && number(option_reply::server) == 2);
static_assert(number(option_reply::info) == 3 && number(option_reply::meta_context) == 4);
static_assert(number(option_reply::err_unsup) == (1U | 1U << 31));
static_assert(number(option_reply::err_policy) == (2U | 1U << 31));
static_assert(number(option_reply::err_invalid) == (3U | 1U << 31));
static_assert(number(option_reply::err_platform) == (4U | 1U << 31));
static_assert(number(option_reply::err_tls_reqd) == (5U | 1U << 31));
static_assert(number(option_reply::err_unknown) == (6U | 1U << 31));
static_assert(number(option_reply::err_shutdown) == (7U | 1U << 31));
static_assert(number(option_reply::err_block_size_reqd) == (8U | 1U << 31));
static_assert(number(option_reply::err_too_big) == (9U | 1U << 31));
static_assert(number(option_reply::err_ext_header_reqd) == (10U | 1U << 31));

static_assert(std::is_same_v<std::underlying_type_t<info>, std::uint16_t>);
static_assert(static_cast<int>(info::export_) == 0 && static_cast<int>(info::name) == 1);
static_assert(static_cast<int>(info::description) == 2 && static_cast<int>(info::block_size) == 3);

static_assert(std::is_same_v<std::underlying_type_t<command>, std::uint16_t>);
static_assert(static_cast<int>(command::read) == 0 && static_cast<int>(command::write) == 1);
static_assert(static_cast<int>(command::disc) == 2 && static_cast<int>(command::flush) == 3);
static_assert(static_cast<int>(command::trim) == 4 && static_cast<int>(command::cache) == 5);
static_assert(static_cast<int>(command::write_zeroes) == 6);
static_assert(static_cast<int>(command::block_status) == 7);
static_assert(static_cast<int>(command::resize) == 8);

static_assert(command_flag::fua == 1 << 0 && command_flag::no_hole == 1 << 1);
static_assert(command_flag::df == 1 << 2 && command_flag::req_one == 1 << 3);
static_assert(command_flag::fast_zero == 1 << 4 && command_flag::payload_len == 1 << 5);

static_assert(reply_flag::done == 1);
static_assert(static_cast<int>(chunk::none) == 0 && static_cast<int>(chunk::offset_data) == 1);
static_assert(static_cast<int>(chunk::offset_hole) == 2);
static_assert(static_cast<int>(chunk::block_status) == 5);
static_assert(static_cast<int>(chunk::block_status_ext) == 6);
static_assert(static_cast<int>(chunk::error) == (1 << 15 | 1));
static_assert(static_cast<int>(chunk::error_offset) == (1 << 15 | 2));
static_assert(state_flag::hole == 1 && state_flag::zero == 2);

static_assert(static_cast<int>(error_value::none) == 0
              && static_cast<int>(error_value::eperm) == 1);
static_assert(static_cast<int>(error_value::eio) == 5
              && static_cast<int>(error_value::enomem) == 12);
static_assert(static_cast<int>(error_value::einval) == 22);
static_assert(static_cast<int>(error_value::enospc) == 28);
static_assert(static_cast<int>(error_value::eoverflow) == 75);
static_assert(static_cast<int>(error_value::enotsup) == 95);
static_assert(static_cast<int>(error_value::eshutdown) == 108);

TEST_CASE("protocol/constants: the magic numbers that are text read as their text (P10)")
{
    const auto as_text = [](std::uint64_t magic) {
        std::string all;
        for (int shift = 56; shift >= 0; shift -= 8)
            all += static_cast<char>(magic >> shift);
        return all;
    };
    CHECK(as_text(init_magic) == "NBDMAGIC");
    CHECK(as_text(option_magic) == "IHAVEOPT");
}
