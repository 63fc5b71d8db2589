// SPDX-License-Identifier: MIT
// The reference model of the handshake accepts right answers, and refuses each kind of wrong one.
#include "fuzz/handshake_model.hpp"

#include "catch.hpp"
#include "fuzz/talk.hpp"
#include "support/bytes.hpp"

#include <string>
#include <vector>

using namespace nbd_test;

namespace {

using nbd_model::difference;

constexpr std::uint32_t export_name = 1, abort_ = 2, list = 3, starttls = 5, info = 6, go = 7,
                        structured = 8, list_meta = 9, set_meta = 10, extended = 11;
constexpr std::uint32_t ack = 1, server = 2, information = 3, meta_context = 4;
constexpr std::uint32_t unsup = 0x80000001, policy = 0x80000002, invalid = 0x80000003,
                        tls_reqd = 0x80000005, unknown = 0x80000006, shutting_down = 0x80000007,
                        block_size_reqd = 0x80000008, too_big = 0x80000009,
                        ext_header_reqd = 0x8000000a;

const nbd_model::served& served_with(nbd_model::tls mode)
{
    static std::vector<nbd_model::served> all(
        3,
        {.exports = {{.name = "disk",
                      .description = "A disk",
                      .size = 512,
                      .contexts = {{"base:allocation"}, {"x-a:wide", true}}},
                     {.name = "odd",
                      .description = "odd",
                      .size = 1024,
                      .minimum_block = 512,
                      .require_block_sizes = true},
                     {.name = "secret", .description = "secret", .tls_only = true}},
         .default_export = "disk",
         .option_bytes = 100,
         .options = 5,
         .option_data = 1000});
    auto& one = all[static_cast<std::size_t>(mode)];
    one.mode = mode;
    return one;
}

/// A model after the greeting and the client flags.
struct talk : talk_with_model<talk> {
    explicit talk(nbd_model::tls mode = nbd_model::tls::none, std::uint32_t flags = 3)
        : model{served_with(mode)}
    {
        model.server_sent(hex("4e42444d41474943 49484156454f5054 0003"));
        model.client_sent(client_flags(flags));
    }

    nbd_model::handshake model;
};

bytes name_and_queries(std::string_view name, const std::vector<std::string>& queries)
{
    auto all = big(static_cast<std::uint32_t>(name.size())) + text(name)
        + big(static_cast<std::uint32_t>(queries.size()));
    for (const auto& q : queries)
        all = all + big(static_cast<std::uint32_t>(q.size())) + text(q);
    return all;
}
bytes info_export(std::uint32_t option, std::uint64_t size, std::uint16_t flags)
{
    return option_reply(option, information, big(std::uint16_t{0}) + big(size) + big(flags));
}

}  // namespace

TEST_CASE("fuzz/handshake_model: the greeting")
{
    const auto refuses = [](const bytes& greeting) {
        nbd_model::handshake model{served_with(nbd_model::tls::none)};
        try {
            model.server_sent(greeting);
            model.client_ended();
            model.ended(true);
        } catch (const difference&) {
            return true;
        }
        return false;
    };
    CHECK_FALSE(refuses(hex("4e42444d41474943 49484156454f5054 0003")));
    CHECK(refuses(hex("4e42444d41474943 49484156454f5055 0003")));
    CHECK(refuses(hex("4e42444d41474943 49484156454f5054 0007")));
    CHECK(refuses(hex("4e42444d41474943 49484156454f5054 00")));
    CHECK(refuses(hex("4e42444d41474943 49484156454f5054 0003 00")));
}

TEST_CASE("fuzz/handshake_model: one right answer to each option")
{
    using nbd_model::tls;
    struct row {
        bytes asked;
        bytes right;
        tls mode = tls::none;
        std::uint32_t flags = 3;
    };
    const auto disk = big(4U) + text("diskA disk");
    const auto odd = big(3U) + text("oddodd");
    const auto listed = option_reply(list, server, disk) + option_reply(list, server, odd);
    const auto ask = [](std::uint32_t o, const bytes& data = {}) { return option(o, data); };
    const auto says = [](std::uint32_t o, std::uint32_t type) { return option_reply(o, type); };
    const std::vector<row> rows{
        {ask(99), says(99, unsup)},
        {ask(4), says(4, unsup)},
        {ask(99, bytes(101)), says(99, unsup)},
        {ask(info, bytes(101)), says(info, too_big)},
        {ask(list), listed + says(list, ack)},
        {ask(list, bytes(1)), says(list, invalid)},
        {ask(structured), says(structured, ack)},
        {ask(extended), says(extended, ack)},
        {ask(abort_), says(abort_, ack)},
        {ask(starttls), says(starttls, unsup)},
        {ask(starttls), says(starttls, ack), tls::forced},
        {ask(list), says(list, tls_reqd), tls::forced},
        {ask(99), says(99, tls_reqd), tls::forced},
        {ask(list), says(list, invalid), tls::none, 2},
        {ask(info, bytes(3)), says(info, invalid)},
        {ask(info, info_data("\xff")), says(info, invalid)},
        {ask(info, info_data("nosuch")), says(info, unknown)},
        {ask(info, info_data("nosuch")), says(info, tls_reqd), tls::selective},
        {ask(info, info_data("secret")), says(info, tls_reqd), tls::selective},
        {ask(info, info_data("secret")), says(info, policy)},
        {ask(info, info_data("odd")), says(info, block_size_reqd)},
        {ask(info, info_data("disk")), info_export(info, 512, 1) + says(info, ack)},
        {ask(set_meta, name_and_queries("disk", {})), says(set_meta, invalid)},
    };
    for (const auto& [asked, right, mode, flags] : rows) {
        CAPTURE(shown(asked), static_cast<int>(mode), flags);
        CHECK_FALSE(talk{mode, flags}.asks(asked).refuses(right));
        CHECK(talk{mode, flags}.asks(asked).refuses({}));
        CHECK(talk{mode, flags}.asks(asked).refuses(right + right));
        auto magic = right;
        magic[7] ^= std::byte{1};
        CHECK(talk{mode, flags}.asks(asked).refuses(magic));
        auto other = right;
        other[11] ^= std::byte{1};
        CHECK(talk{mode, flags}.asks(asked).refuses(other));
        const auto number = nbd_model::fields{std::span{asked}.subspan(8)}.u32();
        const auto last = nbd_model::fields{std::span{right}.last(8)}.u32();
        for (const auto type : {ack, unsup, policy, invalid, tls_reqd, unknown, shutting_down,
                                block_size_reqd, too_big, ext_header_reqd, 0x80000020U, 5U})
            if (type != last) {
                CAPTURE(type);
                CHECK(talk{mode, flags}.asks(asked).refuses(option_reply(number, type)));
            }
    }
}

TEST_CASE("fuzz/handshake_model: what LIST and INFO tell")
{
    const auto entry = [](std::string_view name, std::string_view description) {
        return option_reply(list, server,
                            big(static_cast<std::uint32_t>(name.size())) + text(name)
                                + text(description));
    };
    const auto end = option_reply(list, ack);
    const auto lists = [&](const bytes& answer) {
        return talk{}.asks(option(list)).refuses(answer + end);
    };
    CHECK_FALSE(lists(entry("disk", "A disk") + entry("odd", "odd")));
    CHECK(lists(entry("disk", "A disk")));
    CHECK(lists(entry("odd", "odd") + entry("disk", "A disk")));
    CHECK(lists(entry("disk", "another") + entry("odd", "odd")));
    CHECK(lists(entry("disk", "A disk") + entry("odd", "odd") + entry("secret", "secret")));
    CHECK(lists(option_reply(list, server, big(99U)) + entry("odd", "odd")));

    const auto informs = [&](std::vector<std::uint16_t> types, const bytes& answer) {
        return talk{}
            .asks(option(info, info_data("disk", types)))
            .refuses(answer + option_reply(info, ack));
    };
    const auto good = info_export(info, 512, 1);
    const auto sizes = option_reply(info, information, hex("0003 00000001 00001000 02000000"));
    const auto name = option_reply(info, information, hex("0001") + text("disk"));
    CHECK_FALSE(informs({1, 3}, good + name + sizes));
    CHECK(informs({3}, good));        // asked for, and not there
    CHECK(informs({}, good + name));  // not asked for
    CHECK(informs({1}, good + name + name));
    CHECK(informs({}, {}));
    CHECK(informs({3},
                  good + option_reply(info, information, hex("0003 00000002 00001000 02000000"))));
    CHECK(informs({1}, good + option_reply(info, information, hex("0001") + text("disc"))));
    CHECK(informs({}, info_export(info, 513, 1)));
    for (const int flags : {0x0000, 0x0081, 0x0801, 0x0023, 0x1001, 0x2001}) {
        CAPTURE(flags);
        CHECK(informs({}, info_export(info, 512, static_cast<std::uint16_t>(flags))));
    }
}

TEST_CASE("fuzz/handshake_model: meta contexts")
{
    const auto context = [](std::uint32_t o, std::uint32_t id, std::string_view name) {
        return option_reply(o, meta_context, big(id) + text(name));
    };
    const auto asks = [&](std::uint32_t form, std::uint32_t o, std::vector<std::string> queries,
                          const bytes& answer) {
        return talk{}
            .asks(option(form) + option(o, name_and_queries("disk", queries)))
            .hears(option_reply(form, ack))
            .refuses(answer + option_reply(o, ack));
    };
    const auto allocation = context(list_meta, 0, "base:allocation");
    const auto wide = context(list_meta, 0, "x-a:wide");
    CHECK_FALSE(asks(structured, list_meta, {}, allocation));
    CHECK_FALSE(asks(extended, list_meta, {}, wide + allocation));
    CHECK_FALSE(asks(extended, list_meta, {"x-a:"}, wide));
    CHECK_FALSE(asks(structured, list_meta, {"x-a:"}, {}));
    CHECK(asks(structured, list_meta, {}, {}));
    CHECK(asks(structured, list_meta, {}, allocation + wide));
    CHECK(asks(structured, list_meta, {}, allocation + allocation));
    CHECK(asks(structured, list_meta, {"x-a:"}, allocation));
    CHECK(asks(structured, list_meta, {}, context(list_meta, 1, "base:allocation")));
    const auto chosen = context(set_meta, 4, "base:allocation");
    CHECK_FALSE(asks(structured, set_meta, {"base:allocation"}, chosen));
    CHECK_FALSE(asks(structured, set_meta, {"base:"}, {}));
    CHECK(asks(structured, set_meta, {"base:"}, chosen));
    CHECK(asks(structured, set_meta, {}, chosen));
    CHECK(asks(extended, set_meta, {"base:allocation", "x-a:wide"},
               chosen + context(set_meta, 4, "x-a:wide")));
}

TEST_CASE("fuzz/handshake_model: what was agreed")
{
    talk t{};
    const auto select = option(set_meta, name_and_queries("disk", {"base:allocation"}));
    t.asks(option(extended) + select + option(go, info_data("disk")) + text("more"));
    t.hears(option_reply(extended, ack)
            + option_reply(set_meta, meta_context, big(4U) + text("base:allocation"))
            + option_reply(set_meta, ack) + info_export(go, 512, 0x1081) + option_reply(go, ack)
            + text("replies"));
    REQUIRE(t.model.transmits());
    CHECK(as_text(t.model.client_rest()) == "more");
    CHECK(as_text(t.model.server_rest()) == "replies");
    CHECK(t.model.export_name() == "disk");
    CHECK(t.model.agreed().form == nbd_model::reply_form::extended);
    REQUIRE(t.model.agreed().contexts.size() == 1);
    CHECK(t.model.agreed().contexts[0].id == 4);

    // EXPORT_NAME has no header, and 124 zeroes unless the client does without.
    const auto sent = big(std::uint64_t{512}) + big(std::uint16_t{1});
    const auto chooses = [&](std::uint32_t flags, std::string_view name, const bytes& answer) {
        talk old{nbd_model::tls::none, flags};
        return old.asks(option(export_name, text(name))).refuses(answer)
            || (!answer.empty() && !old.model.transmits());
    };
    CHECK_FALSE(chooses(3, "disk", sent));
    CHECK_FALSE(chooses(1, "", sent + bytes(124)));
    CHECK(chooses(1, "disk", sent));
    CHECK(chooses(1, "disk", sent + bytes(123) + text("x")));
    CHECK(chooses(3, "disk", {}));
    CHECK(chooses(3, "nosuch", sent));
    CHECK_FALSE(chooses(3, "nosuch", {}));  // closed
}

TEST_CASE("fuzz/handshake_model: inside TLS nothing is kept but the client flags")
{
    talk t{nbd_model::tls::selective};
    t.asks(option(extended) + option(starttls))
        .hears(option_reply(extended, ack) + option_reply(starttls, ack));
    REQUIRE(t.model.starts_tls());
    t.model.secure();
    t.asks(option(info, info_data("secret")));
    CHECK_FALSE(t.refuses(info_export(info, 0, 1) + option_reply(info, ack)));
    talk kept{nbd_model::tls::selective};
    kept.asks(option(extended) + option(starttls))
        .hears(option_reply(extended, ack) + option_reply(starttls, ack));
    kept.model.secure();
    kept.asks(option(info, info_data("secret")));
    CHECK(kept.refuses(info_export(info, 0, 0x81) + option_reply(info, ack)));
}

TEST_CASE("fuzz/handshake_model: limits and the end")
{
    const auto closes = [](const bytes& asked) { return !talk{}.asks(asked).refuses({}); };
    CHECK_FALSE(closes(option(99)));
    CHECK(closes(text("IHAVEOPX") + bytes(8)));
    CHECK(closes(option(99).size() == 16 ? bytes(15) : bytes{}));  // incomplete
    bytes many;
    bytes answers;
    for (int i = 0; i < 5; ++i) {
        many = many + option(99);
        answers = answers + option_reply(99, unsup);
    }
    CHECK_FALSE(talk{}.asks(many + option(99)).refuses(answers));
    CHECK(talk{}.asks(many).refuses({answers.begin(), answers.end() - 20}));
    // 1000 bytes of data are the limit.
    const auto half = option(99, bytes(600));
    const auto refused = option_reply(99, unsup);
    CHECK_FALSE(talk{}.asks(half).refuses(refused));
    CHECK_FALSE(talk{}.asks(half).hears(refused).asks(half).refuses({}));
    CHECK(talk{}.asks(half).hears(refused).asks(half).refuses(refused));
    talk hung_up{};
    CHECK_THROWS_AS(hung_up.model.ended(true), difference);
    talk stopping{};
    stopping.asks(option(info, info_data("disk"))).model.server_stops();
    CHECK_FALSE(stopping.refuses(option_reply(info, shutting_down)));
    CHECK_FALSE(talk{nbd_model::tls::none, 7}.asks(option(go, info_data("disk"))).refuses({}));
}
