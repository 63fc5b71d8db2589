// SPDX-License-Identifier: MIT
// LIST_META_CONTEXT and SET_META_CONTEXT byte by byte, and the selection at GO.
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/handshake/negotiator.hpp>

#include <array>
#include <string>
#include <utility>
#include <vector>

using namespace nbd_test;
using action = nbd::handshake::action;
using nbd::handshake::selected_context;

namespace {

constexpr std::uint32_t go = 7, structured = 8, list = 9, set = 10, extended = 11;
constexpr std::uint32_t ack = 1, context_reply = 4;
constexpr std::uint32_t unsup = 0x80000001, invalid = 0x80000003, unknown = 0x80000006,
                        ext_header_reqd = 0x8000000a;

const std::array<nbd::protocol::meta_context, 4> contexts{{{"base:allocation"},
                                                           {"x-snap:changed"},
                                                           {"x-snap:depth:2"},
                                                           {.name = "x-snap:age", .wide = true}}};

bytes string_of(std::string_view s)
{
    return big(static_cast<std::uint32_t>(s.size())) + text(s);
}
bytes data_of(std::string_view name, const std::vector<std::string>& queries)
{
    auto all = string_of(name) + big(static_cast<std::uint32_t>(queries.size()));
    for (const auto& q : queries)
        all = all + string_of(q);
    return all;
}

/// A client of two exports: "disk" with all contexts above, and "other" with base:allocation.
/// The empty name opens "disk".
class asking {
public:
    explicit asking(std::uint32_t style = structured)
    {
        say(client_flags());
        if (style != 0)
            say(option(style));
        h_.reply().clear();
    }

    action say(const bytes& all)
    {
        auto v = action::receive;
        for (std::size_t at = 0; at < all.size();) {
            step_.assign(all.begin() + static_cast<std::ptrdiff_t>(at),
                         all.begin() + static_cast<std::ptrdiff_t>(at + h_.bytes_needed()));
            at += step_.size();
            v = h_.process(step_);
            if (v == action::open_export)
                v = open();
        }
        return v;
    }
    std::string answer(std::uint32_t o, const bytes& data)
    {
        h_.reply().clear();
        say(option(o, data));
        return shown(h_.reply());
    }
    /// The type of the last reply.
    std::uint32_t answer_type(std::uint32_t o, const bytes& data = {})
    {
        h_.reply().clear();
        say(option(o, data));
        std::span<const std::byte> rest{h_.reply()};
        for (;;) {
            const auto length = nbd::protocol::load<std::uint32_t>(rest.subspan(16));
            if (rest.size() == 20 + length)
                return nbd::protocol::load<std::uint32_t>(rest.subspan(12));
            rest = rest.subspan(20 + length);
        }
    }
    /// Replaces the export "disk" by one with these contexts.
    void replace(std::span<const nbd::protocol::meta_context> with) { offered_ = with; }
    /// The ids in replies to BLOCK_STATUS, after selected_at_go.
    std::vector<std::uint32_t> ids() const
    {
        std::vector<std::uint32_t> all;
        for (const auto& c : h_.agreed().contexts)
            all.push_back(c.id);
        return all;
    }
    /// The indices of the selected contexts in transmission.
    std::vector<std::size_t> selected_at_go(std::string_view name = "disk")
    {
        REQUIRE(say(option(go, info_data(name))) == action::transmit);
        std::vector<std::size_t> all;
        for (const auto& c : h_.agreed().contexts)
            all.push_back(c.index);
        CHECK(h_.agreed().terms.block_status == !all.empty());
        return all;
    }

private:
    action open()
    {
        const auto name = h_.requested_name();
        const nbd::protocol::export_terms terms{.size = 512, .flags = 1, .blocks = {}};
        if (name == "disk" || name.empty())
            return h_.export_opened({"disk", "disk", terms, offered_});
        if (name == "other")
            return h_.export_opened({"other", "other", terms, std::span{contexts}.first(1)});
        return h_.export_refused(nbd::errc::unknown_export);
    }

    nbd::settings limits_;
    nbd::handshake::negotiator h_{limits_};
    std::span<const nbd::protocol::meta_context> offered_{contexts};
    bytes step_;
};
using indices = std::vector<std::size_t>;

std::string listed(const std::vector<std::string>& names)
{
    bytes all;
    for (const auto& n : names)
        all = all + option_reply(list, context_reply, big(0U) + text(n));
    return shown(all + option_reply(list, ack));
}
std::string selected(const std::vector<std::pair<std::uint32_t, std::string>>& names)
{
    bytes all;
    for (const auto& [id, n] : names)
        all = all + option_reply(set, context_reply, big(id) + text(n));
    return shown(all + option_reply(set, ack));
}

}  // namespace

TEST_CASE("handshake/meta_context: a selection in hex, both ways (P26, P39, P42)")
{
    asking client;
    CHECK(client.answer(set,
                        hex("00000004 6469736b 00000001"
                            "0000000f 626173653a616c6c6f636174696f6e"))
          == shown(hex("0003e889045565a9 0000000a 00000004 00000013 00000001"
                       "626173653a616c6c6f636174696f6e"
                       "0003e889045565a9 0000000a 00000001 00000000")));
    CHECK(client.selected_at_go() == indices{0});
}

TEST_CASE("handshake/meta_context: LIST without queries returns all contexts, with the id 0 (P41)")
{
    asking client;
    CHECK(client.answer(list, data_of("disk", {}))
          == listed({"base:allocation", "x-snap:changed", "x-snap:depth:2"}));
    CHECK(client.answer(list, data_of("other", {})) == listed({"base:allocation"}));
    CHECK(client.answer(list, data_of("", {})) == client.answer(list, data_of("disk", {})));
}

TEST_CASE("handshake/meta_context: LIST with queries returns each match once, and no match is only "
          "an ACK (P40, P41, P82)")
{
    asking client;
    CHECK(client.answer(list, data_of("disk", {"base:"})) == listed({"base:allocation"}));
    CHECK(client.answer(list, data_of("disk", {"x-snap:", "x-snap:changed", "x-snap:"}))
          == listed({"x-snap:changed", "x-snap:depth:2"}));
    CHECK(client.answer(list, data_of("disk", {"x-nosuch:", "qemu:dirty-bitmap:a", "base:nosuch"}))
          == listed({}));
    CHECK(client.answer(list, data_of("disk", {"x-snap:depth:2"})) == listed({"x-snap:depth:2"}));
}

TEST_CASE("handshake/meta_context: LIST does not change the selection (P42)")
{
    asking client;
    client.say(option(set, data_of("disk", {"x-snap:changed"})));
    client.say(option(list, data_of("disk", {})));
    client.say(option(list, data_of("other", {"base:"})));
    CHECK(client.selected_at_go() == indices{1});
}

TEST_CASE("handshake/meta_context: SET returns each context once, with a unique id (P42)")
{
    asking client;
    CHECK(
        client.answer(
            set,
            data_of("disk", {"x-snap:changed", "base:allocation", "x-snap:changed", "x-nosuch:a"}))
        == selected({{1, "base:allocation"}, {2, "x-snap:changed"}}));
    CHECK(client.selected_at_go() == indices{0, 1});
}

TEST_CASE("handshake/meta_context: selecting no context is not an error (P42, P82)")
{
    for (const auto& queries :
         {std::vector<std::string>{}, {"base:"}, {"x-snap:"}, {"nosuch"}, {"base:nosuch", ":"}}) {
        asking client;
        CHECK(client.answer(set, data_of("disk", queries)) == selected({}));
        CHECK(client.selected_at_go().empty());
    }
}

TEST_CASE("handshake/meta_context: the last SET replaces what was selected before (P42)")
{
    asking client;
    client.say(option(set, data_of("disk", {"base:allocation"})));
    client.say(option(set, data_of("disk", {"x-snap:changed"})));
    SECTION("by another context")
    {
        CHECK(client.selected_at_go() == indices{1});
    }
    SECTION("without a query")
    {
        client.say(option(set, data_of("disk", {})));
        CHECK(client.selected_at_go().empty());
    }
    SECTION("without a match")
    {
        client.say(option(set, data_of("disk", {"base:"})));
        CHECK(client.selected_at_go().empty());
    }
}

TEST_CASE("handshake/meta_context: a SET that fails clears what was selected (P42)")
{
    asking client;
    client.say(option(set, data_of("disk", {"base:allocation"})));
    SECTION("malformed")
    {
        CHECK(client.answer_type(set, data_of("disk", {"base:allocation"}) + hex("00")) == invalid);
    }
    SECTION("no data")
    {
        CHECK(client.answer_type(set) == invalid);
    }
    SECTION("no string")
    {
        CHECK(client.answer_type(set, data_of("disk", {"\xff"})) == invalid);
    }
    SECTION("an unknown export")
    {
        CHECK(client.answer_type(set, data_of("nosuch", {"base:allocation"})) == unknown);
    }
    SECTION("more data than an option may have")
    {
        CHECK(client.answer_type(set, bytes(65537)) == 0x80000009);
    }
    CHECK(client.selected_at_go().empty());
}

TEST_CASE("handshake/meta_context: a selection applies to its export only (P43)")
{
    asking client;
    client.say(option(set, data_of("disk", {"base:allocation"})));
    SECTION("another export")
    {
        CHECK(client.selected_at_go("other").empty());
    }
    SECTION("the same export by its other name")
    {
        CHECK(client.selected_at_go("") == indices{0});
    }
    SECTION("INFO of another export in between")
    {
        client.say(option(6, info_data("other")));
        CHECK(client.selected_at_go() == indices{0});
    }
    SECTION("selected by the empty name")
    {
        client.say(option(set, data_of("", {"x-snap:changed"})));
        CHECK(client.selected_at_go("disk") == indices{1});
    }
}

TEST_CASE(
    "handshake/meta_context: GO finds the selected contexts by name, and keeps their ids (P43)")
{
    using ids = std::vector<std::uint32_t>;
    const auto all = {"base:allocation", "x-snap:changed", "x-snap:depth:2", "x-snap:age"};
    asking client{extended};
    client.say(option(set, data_of("disk", {all.begin(), all.end()})));
    SECTION("one is left, at another position")
    {
        client.replace(std::span{contexts}.subspan(2, 1));
        CHECK(client.selected_at_go() == indices{0});
        CHECK(client.ids() == ids{3});
    }
    SECTION("in another order")
    {
        const std::array<nbd::protocol::meta_context, 2> turned{
            {{"x-snap:changed"}, {"base:allocation"}}};
        client.replace(turned);
        CHECK(client.selected_at_go() == indices{1, 0});
        CHECK(client.ids() == ids{1, 2});
    }
    SECTION("no context is left")
    {
        client.replace({});
        CHECK(client.selected_at_go().empty());
    }
}

TEST_CASE(
    "handshake/meta_context: a context that has become 64 bits wide is not selected (P43, P85)")
{
    asking client;
    client.say(option(set, data_of("disk", {"base:allocation", "x-snap:changed"})));
    const std::array<nbd::protocol::meta_context, 2> wider{
        {{.name = "base:allocation", .wide = true}, {"x-snap:changed"}}};
    client.replace(wider);
    CHECK(client.selected_at_go() == indices{1});
}

TEST_CASE("handshake/meta_context: INFO and a failed GO do not change the selection (P43)")
{
    asking client;
    client.say(option(set, data_of("disk", {"base:allocation"})));
    client.say(option(6, info_data("disk")));
    CHECK(client.answer_type(go, info_data("nosuch")) == unknown);
    CHECK(client.answer_type(0x4711) == unsup);
    CHECK(client.selected_at_go() == indices{0});
}

TEST_CASE(
    "handshake/meta_context: without structured replies LIST and SET are ERR_INVALID (P41, P42)")
{
    asking client{0};
    CHECK(client.answer_type(list, data_of("disk", {})) == invalid);
    CHECK(client.answer_type(set, data_of("disk", {"base:allocation"})) == invalid);
    CHECK(client.answer_type(structured) == ack);
    CHECK(client.selected_at_go().empty());
}

TEST_CASE("handshake/meta_context: a context of 64 bits needs extended headers (P85)")
{
    SECTION("structured")
    {
        asking client;
        CHECK(client.answer(set, data_of("disk", {"x-snap:age", "base:allocation"}))
              == selected({{1, "base:allocation"}}));
        CHECK(client.answer(list, data_of("disk", {"x-snap:age"})) == listed({}));
    }
    SECTION("extended")
    {
        asking client{extended};
        CHECK(client.answer(list, data_of("disk", {"x-snap:"}))
              == listed({"x-snap:changed", "x-snap:depth:2", "x-snap:age"}));
        CHECK(client.answer(set, data_of("disk", {"x-snap:age"})) == selected({{4, "x-snap:age"}}));
        CHECK(client.selected_at_go() == indices{3});
    }
}

TEST_CASE("handshake/meta_context: STRUCTURED_REPLY after extended headers is refused (P38, P44)")
{
    asking client{extended};
    CHECK(client.answer_type(structured) == ext_header_reqd);
    CHECK(client.answer_type(structured, hex("00")) == invalid);
    CHECK(client.answer_type(extended, hex("00")) == invalid);
    CHECK(client.answer_type(set, data_of("disk", {"base:allocation"})) == ack);
    CHECK(client.selected_at_go() == indices{0});
}
