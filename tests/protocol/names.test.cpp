// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/protocol/names.hpp>

namespace proto = nbd::protocol;

static_assert(proto::name_of(proto::command::read) == "READ");
static_assert(proto::name_of(proto::command::resize) == "RESIZE");
static_assert(proto::name_of(proto::command{9}).empty());
static_assert(proto::name_of(proto::option::export_name) == "EXPORT_NAME");
static_assert(proto::name_of(proto::option::extended_headers) == "EXTENDED_HEADERS");
static_assert(proto::name_of(proto::option{0}).empty());
static_assert(proto::name_of(proto::option{12}).empty());
static_assert(proto::name_of(proto::error_value::none) == "success");
static_assert(proto::name_of(proto::error_value::eshutdown) == "ESHUTDOWN");
static_assert(proto::name_of(proto::error_value{2}).empty());

TEST_CASE("protocol/names: flags")
{
    using namespace proto::command_flag;
    CHECK(proto::names_of_command_flags(0).empty());
    CHECK(proto::names_of_command_flags(fua) == "FUA");
    CHECK(proto::names_of_command_flags(df | fua | payload_len) == "FUA DF PAYLOAD_LEN");
    CHECK(proto::names_of_command_flags(1U << 6).empty());
    using namespace proto::transmission_flag;
    CHECK(proto::names_of_transmission_flags(has_flags | send_fua) == "HAS_FLAGS SEND_FUA");
    CHECK(proto::names_of_transmission_flags(block_status_payload) == "BLOCK_STATUS_PAYLOAD");
    CHECK(proto::names_of_transmission_flags(1U << 13).empty());
}
