// SPDX-License-Identifier: MIT
// A client whose handshake another program has done: its export is opened, and nothing is said.
#include "catch.hpp"
#include <nbd/handshake/negotiator.hpp>

#include <array>
#include <system_error>

using nbd::errc;
using nbd::tls_mode;
using nbd::handshake::negotiator;
using action = nbd::handshake::action;
using style = nbd::protocol::reply_style;
namespace tf = nbd::protocol::transmission_flag;

namespace {

constexpr std::array<nbd::protocol::meta_context, 2> contexts_of_disk{
    {{"base:allocation"}, {.name = "x-snap:age", .wide = true}}};

nbd::handshake::export_info the_disk()
{
    // It asks clients to negotiate block sizes. Who did the handshake knows them.
    return {.name = "disk",
            .description = "",
            .terms = {.size = 4096, .flags = tf::has_flags, .blocks = {512, 4096, 1 << 20}},
            .contexts = contexts_of_disk,
            .require_block_sizes = true};
}
/// The action after the export was opened.
action opened(negotiator& n)
{
    CHECK(n.first_action() == action::open_export);
    CHECK(n.purpose() == nbd::open_purpose::transmission);
    const auto next = n.export_opened(the_disk());
    CHECK(n.reply().empty());
    return next;
}

}  // namespace

TEST_CASE("handshake/negotiator: a handshake that is over goes on with what was negotiated")
{
    const nbd::settings limits;
    const nbd::established simple{.export_name = "disk"};
    negotiator n{limits, tls_mode::none, &simple};
    CHECK(n.requested_name() == "disk");
    CHECK(opened(n) == action::transmit);
    CHECK(n.agreed().style == style::simple);
    CHECK(n.agreed().terms.size == 4096);
    CHECK(n.agreed().terms.told == 4096);
    CHECK_FALSE(n.agreed().terms.has(tf::send_df));

    const nbd::established chunks{.structured_replies = true,
                                  .meta_contexts = {{"base:allocation", 77}}};
    negotiator m{limits, tls_mode::none, &chunks};
    CHECK(m.requested_name().empty());
    CHECK(opened(m) == action::transmit);
    CHECK(m.agreed().style == style::structured);
    CHECK(m.agreed().terms.has(tf::send_df));
    CHECK(m.agreed().terms.block_status);
    CHECK(m.agreed().contexts == std::vector<nbd::protocol::selected_context>{{77, 0}});

    const nbd::established wide{.extended_headers = true,
                                .meta_contexts = {{"x-snap:age", 3}, {"base:allocation", 9}}};
    negotiator x{limits, tls_mode::none, &wide};
    CHECK(opened(x) == action::transmit);
    CHECK(x.agreed().style == style::extended);
    CHECK(x.agreed().contexts == std::vector<nbd::protocol::selected_context>{{3, 1}, {9, 0}});
}

TEST_CASE("handshake/negotiator: a handshake that is over cannot have selected these contexts")
{
    const nbd::settings limits;
    for (const nbd::established& impossible :
         {nbd::established{.meta_contexts = {{"base:allocation", 1}}},
          nbd::established{.structured_replies = true, .meta_contexts = {{"x-snap:age", 1}}},
          nbd::established{.extended_headers = true, .meta_contexts = {{"x-snap:other", 1}}}}) {
        negotiator n{limits, tls_mode::none, &impossible};
        CHECK(opened(n) == action::close);
        CHECK(n.close_reason() == std::errc::invalid_argument);
    }
}

TEST_CASE("handshake/negotiator: a handshake that is over ends with the reason of a refusal")
{
    const nbd::settings limits;
    const nbd::established begun{.export_name = "other"};
    for (const std::error_code why :
         {make_error_code(errc::unknown_export), std::make_error_code(std::errc::io_error)}) {
        negotiator n{limits, tls_mode::selective, &begun};
        CHECK(n.option().option == nbd::protocol::option::go);
        CHECK(n.export_refused(why) == action::close);
        CHECK(n.close_reason() == why);
        CHECK(n.reply().empty());
    }
}

TEST_CASE("handshake/negotiator: without TLS, an export that needs it is refused")
{
    const nbd::settings limits;
    const nbd::established begun{.export_name = "disk"};
    CHECK_FALSE(negotiator{limits, tls_mode::none, &begun}.needs_tls(false));
    CHECK_FALSE(negotiator{limits, tls_mode::selective, &begun}.needs_tls(false));
    CHECK(negotiator{limits, tls_mode::none, &begun}.needs_tls(true));
    CHECK(negotiator{limits, tls_mode::selective, &begun}.needs_tls(true));
    CHECK(negotiator{limits, tls_mode::forced, &begun}.needs_tls(false));
    CHECK_FALSE(negotiator{limits, tls_mode::forced}.inside_tls().needs_tls(true));
}
