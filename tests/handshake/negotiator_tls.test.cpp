// SPDX-License-Identifier: MIT
// STARTTLS and the three modes, byte by byte, without a socket and without TLS.
#include "catch.hpp"
#include "support/negotiation.hpp"

#include <string>

using namespace nbd_test;
using nbd::errc;
using nbd::tls_mode;
using action = nbd::handshake::action;

namespace {
constexpr std::uint32_t export_name = 1, abort_ = 2, list = 3, starttls = 5, info = 6, go = 7,
                        structured_reply = 8, list_meta = 9, set_meta = 10, extended = 11;
constexpr std::uint32_t ack = 1;
constexpr std::uint32_t unsup = 0x80000001, policy = 0x80000002, invalid = 0x80000003,
                        tls_reqd = 0x80000005, unknown = 0x80000006, shutting_down = 0x80000007,
                        too_big = 0x80000009;

bytes meta(const std::string& name)
{
    bytes data;
    const auto put = [&data](std::uint32_t n) {
        for (const int shift : {24, 16, 8, 0})
            data.push_back(static_cast<std::byte>(n >> shift));
    };
    put(static_cast<std::uint32_t>(name.size()));
    for (const char c : name)
        data.push_back(static_cast<std::byte>(c));
    put(0);
    return data;
}
}  // namespace

TEST_CASE("handshake/negotiator: without TLS, STARTTLS is refused and nothing asks for it (T01)")
{
    negotiation h;
    h.begun();
    CHECK(h.answer_type(option(starttls)) == unsup);
    CHECK(h.answer_type(option(starttls, bytes(4))) == invalid);  // N-13, T02
    CHECK(h.answer_type(option(starttls, bytes(100'000))) == unsup);
    CHECK(h.in_step());
    h.refuse_with(errc::tls_required);
    CHECK(h.answer_type(option(info, info_data("disk"))) == policy);  // P71: never TLS_REQD
    CHECK(h.answer_type(option(structured_reply)) == ack);
    CHECK(h.answer_type(option(set_meta, meta("disk"))) == unknown);
    h.say(option(export_name, text("disk")));
    CHECK(h.ended() == errc::tls_required);
}

TEST_CASE("handshake/negotiator: STARTTLS is acknowledged; the bytes behind it are TLS's (T04)")
{
    for (const auto mode : {tls_mode::forced, tls_mode::selective}) {
        negotiation h{mode};
        h.begun();
        CHECK(h.answer_type(option(starttls, bytes(4))) == invalid);  // T02
        CHECK(h.answer_type(option(starttls, bytes(100'000))) == too_big);
        CHECK(h.answer_type(option(starttls)) == ack);
        CHECK(h.over());
        CHECK(h.negotiator().starts_tls());
        CHECK_FALSE(h.negotiator().secured());
        h.say(option(go, info_data("disk")));
        CHECK(h.opens() == 0);
    }
}

TEST_CASE("handshake/negotiator: inside TLS there is no greeting, and no second STARTTLS (T03)")
{
    negotiation h{tls_mode::forced};
    h.begun();
    h.say(option(starttls));
    negotiation inside{h};
    CHECK(inside.negotiator().secured());
    CHECK_FALSE(inside.negotiator().starts_tls());
    CHECK(inside.negotiator().between_options());
    CHECK(inside.heard().empty());
    CHECK(inside.answer_type(option(starttls)) == invalid);
    CHECK(inside.in_step());
    CHECK(inside.answer_type(option(info, info_data("nosuch"))) == unknown);  // P72: not TLS_REQD
    CHECK(inside.say(option(go, info_data("disk"))) == action::transmit);     // T08
}

TEST_CASE("handshake/negotiator: nothing negotiated before TLS counts inside (T05, CVE-2021-3716)")
{
    for (const auto o : {structured_reply, extended}) {
        negotiation h{tls_mode::selective};
        h.begun();
        CHECK(h.answer_type(option(o)) == ack);
        CHECK(h.answer_type(option(set_meta, meta("disk"))) == ack);
        h.say(option(starttls));
        negotiation inside{h};
        CHECK(inside.answer_type(option(set_meta, meta("disk"))) == invalid);
        inside.say(option(go, info_data("disk")));
        CHECK(inside.negotiator().agreed().style == nbd::protocol::reply_style::simple);
        CHECK(inside.negotiator().agreed().contexts.empty());
        CHECK((inside.negotiator().agreed().terms.flags & nbd::protocol::transmission_flag::send_df)
              == 0);
    }
}

TEST_CASE("handshake/negotiator: the limits go on inside TLS")
{
    nbd::settings limits;
    limits.options_per_handshake = 3;
    nbd::handshake::negotiator plain{limits, tls_mode::selective};
    const auto say = [](auto& n, const bytes& all) {
        auto last = action::receive;
        for (std::size_t at = 0; at < all.size();) {
            const auto step = n.bytes_needed();
            last = n.process(std::span{all}.subspan(at, step));
            at += step;
        }
        return last;
    };
    say(plain, client_flags(3));
    say(plain, option(0x4711));
    CHECK(say(plain, option(starttls)) == action::start_tls);
    auto inside = plain.inside_tls();
    CHECK(say(inside, option(0x4711)) == action::receive);
    CHECK(say(inside, option(0x4711)) == action::close);
    CHECK(inside.close_reason() == errc::too_many_options);
}

TEST_CASE("handshake/negotiator: forced TLS refuses everything else, and keeps in step (T06)")
{
    negotiation h{tls_mode::forced};
    h.begun();
    CHECK(h.answer_type(option(list)) == tls_reqd);
    CHECK(h.answer_type(option(list, bytes(7))) == tls_reqd);
    for (const auto o : {info, go}) {
        CHECK(h.answer_type(option(o, info_data("disk"))) == tls_reqd);
        CHECK(h.answer_type(option(o, bytes(3))) == tls_reqd);
    }
    for (const auto o : {list_meta, set_meta})
        CHECK(h.answer_type(option(o, meta("disk"))) == tls_reqd);
    CHECK(h.answer_type(option(structured_reply)) == tls_reqd);
    CHECK(h.answer_type(option(extended)) == tls_reqd);
    CHECK(h.answer_type(option(0x4711, bytes(100))) == tls_reqd);
    CHECK(h.answer_type(option(0x4711, bytes(100'000))) == tls_reqd);
    CHECK(h.opens() == 0);
    CHECK(h.answer_type(option(starttls)) == ack);
}

TEST_CASE("handshake/negotiator: forced TLS closes after EXPORT_NAME, and acknowledges ABORT")
{
    for (const std::uint32_t flags : {0U, 1U, 3U}) {  // T07; without fixed newstyle too (P16)
        negotiation h{tls_mode::forced};
        h.begun(flags);
        CHECK(h.say(option(export_name, text("disk"))) == action::close);
        CHECK(h.ended() == errc::tls_required);
        CHECK(h.heard().empty());
        CHECK(h.opens() == 0);
    }
    negotiation h{tls_mode::forced};
    h.begun();
    CHECK(h.answer_type(option(abort_)) == ack);  // T09
    CHECK(h.over());
    CHECK_FALSE(h.ended());
}

TEST_CASE("handshake/negotiator: selective TLS refuses what needs TLS, and does not tell it (T16)")
{
    negotiation h{tls_mode::selective};
    h.begun();
    // An unknown export and one that needs TLS are told apart by nothing.
    const auto unknown_info = h.answer(option(info, info_data("nosuch")));
    h.refuse_with(errc::tls_required);
    CHECK(h.answer(option(info, info_data("secret"))) == unknown_info);
    CHECK(h.answer_type(option(info, info_data("secret"))) == tls_reqd);
    CHECK(h.answer_type(option(go, info_data("secret"))) == tls_reqd);
    CHECK(h.answer_type(option(structured_reply)) == ack);
    CHECK(h.answer_type(option(set_meta, meta("secret"))) == unknown);  // P73
    CHECK(h.answer_type(option(list_meta, meta("secret"))) == unknown);
    h.refuse_with({});
    CHECK(h.answer_type(option(list_meta, meta("disk"))) == ack);
    CHECK(h.in_step());
    h.refuse_with(errc::tls_required);
    h.say(option(export_name, text("secret")));
    CHECK(h.ended() == errc::tls_required);
}

TEST_CASE("handshake/negotiator: a server that stops starts no TLS (P24)")
{
    negotiation h{tls_mode::forced};
    h.begun();
    h.negotiator().shut_down();
    CHECK(h.answer_type(option(starttls)) == shutting_down);
    CHECK(h.answer_type(option(list)) == shutting_down);
    CHECK_FALSE(h.over());
}

TEST_CASE("handshake/negotiator: a client that is not authorised is told that there is no export")
{
    for (const auto tls : {tls_mode::none, tls_mode::selective}) {
        for (const auto o : {info, go, list_meta, set_meta}) {
            negotiation h{tls};
            h.begun();
            h.say(option(structured_reply));
            const auto asks =
                o == info || o == go ? option(o, info_data("disk")) : option(o, meta("disk"));
            h.refuse_with(errc::unknown_export);
            const auto absent = h.answer(asks);
            h.refuse_with(errc::not_authorised);
            CHECK(h.answer(asks) == absent);
            CHECK(h.in_step());
        }
        for (const auto why : {errc::unknown_export, errc::not_authorised}) {
            negotiation h{tls};
            h.begun();
            h.refuse_with(why);
            CHECK(h.say(option(export_name, text("disk"))) == action::close);
            CHECK(h.ended()
                  == (tls == tls_mode::none ? errc::export_name_refused : errc::tls_required));
        }
    }
}
