// SPDX-License-Identifier: MIT
// The handshake loop over a script: opens, the end, and calls of the observer.
#include "catch.hpp"
#include "support/session.hpp"

#include <functional>
#include <map>
#include <string>
#include <vector>

using namespace nbd_test;
using nbd::errc;

namespace {

/// Counts opens, and clients that have it open.
struct opening_disk {
    struct counts {
        int opened = 0;
        int open_now = 0;
        std::error_code refuse;
        std::function<void()> on_open = [] {};
    };
    struct state {
        explicit state(counts& c) : counts_{&c} { ++counts_->open_now; }
        state(state&& other) noexcept : counts_{std::exchange(other.counts_, nullptr)} {}
        state& operator=(state&& other) noexcept
        {
            std::swap(counts_, other.counts_);
            return *this;
        }
        ~state()
        {
            if (counts_ != nullptr)
                --counts_->open_now;
        }
        std::uint64_t size() const { return 512; }
        void read(std::uint64_t, std::span<std::byte>) {}
        counts* counts_;
    };
    state open(const nbd::client&)
    {
        if (counts_->refuse)
            throw std::system_error{counts_->refuse};
        ++counts_->opened;
        counts_->on_open();
        return state{*counts_};
    }
    counts* counts_;
};

struct listener {
    std::vector<std::string> heard;
    std::map<std::uint32_t, std::function<void()>> at_number;

    void at_option(const nbd::client& who, const nbd::protocol::option_header& o)
    {
        if (const auto& f = at_number[static_cast<std::uint32_t>(o.option)])
            f();
        heard.push_back(who.peer + " option " + std::to_string(static_cast<std::uint32_t>(o.option))
                        + " of " + std::to_string(o.length));
    }
    void at_export_opened(const nbd::client&, std::string_view name,
                          const nbd::protocol::export_terms& terms)
    {
        heard.push_back("opened " + std::string{name} + " of " + std::to_string(terms.size));
    }
    void at_option_error(const nbd::client&, const nbd::protocol::option_header& o,
                         const nbd::failure& why)
    {
        heard.push_back("option " + std::to_string(static_cast<std::uint32_t>(o.option))
                        + " refused: " + why.message());
    }
};

constexpr std::uint32_t export_name = 1, abort_ = 2, list = 3, info = 6, go = 7;

using client = one_client<opening_disk, listener>;
using words = std::vector<std::string>;

}  // namespace

TEST_CASE("session/negotiate: greeting, options, and the chosen export")
{
    opening_disk::counts counts;
    client c{{&counts}};
    CHECK(c.negotiate(client_flags() + option(list) + option(go, info_data("disk"))));
    CHECK(c.heard()
          == shown(hex("4e42444d41474943 49484156454f5054 0003")
                   + option_reply(list, 2,
                                  big(4U)
                                      + text("disk"
                                             "disk"))
                   + option_reply(list, 1) + option_reply(go, 3, hex("0000 0000000000000200 0003"))
                   + option_reply(go, 1)));
    CHECK_FALSE(c.ended());
    CHECK(c.context->admitted);
    CHECK(c.observer.heard
          == words{"script option 3 of 0", "script option 7 of 10", "opened disk of 512"});
}

TEST_CASE("session/negotiate: an export is opened once for all options that name it (P99, O19)")
{
    opening_disk::counts counts;
    client c{{&counts}};
    SECTION("clients that only connect open nothing (CVE-2019-14850)")
    {
        c.negotiate(client_flags() + option(list) + option(99));
        CHECK(counts.opened == 0);
    }
    SECTION("INFO many times, then GO: opened once (CVE-2019-14851)")
    {
        auto said = client_flags();
        for (int i = 0; i < 30; ++i)
            said = said + option(info, info_data("disk"));
        CHECK(c.negotiate(said + option(go, info_data("disk"))));
        CHECK(counts.opened == 1);
    }
    SECTION("INFO of one, GO of another: the first is closed before the second is opened")
    {
        opening_disk::counts others;
        c.exports.add("other", {&others});
        counts.on_open = [&] { CHECK(others.open_now == 0); };
        others.on_open = [&] { CHECK(counts.open_now == 0); };
        CHECK(c.negotiate(client_flags() + option(info, info_data("disk"))
                          + option(info, info_data("other")) + option(go, info_data("disk"))));
        CHECK(counts.opened == 2);
        CHECK(others.opened == 1);
        CHECK(others.open_now == 0);
    }
    SECTION("by two names of the same export: opened once")
    {
        CHECK(c.negotiate(client_flags() + option(info, info_data("disk"))
                          + option(info, info_data("")) + option(go, info_data("disk"))));
        CHECK(counts.opened == 1);
    }
    SECTION("for LIST_META_CONTEXT and SET_META_CONTEXT too")
    {
        const auto of_disk = big(4U) + text("disk") + big(0U);
        CHECK(c.negotiate(client_flags() + option(8) + option(9, of_disk) + option(10, of_disk)
                          + option(info, info_data("disk")) + option(go, info_data("disk"))));
        CHECK(counts.opened == 1);
    }
    SECTION("an export that was removed and added again is opened again")
    {
        c.observer.at_number[go] = [&] {
            c.exports.remove("disk");
            CHECK(counts.open_now == 1);
            c.exports.add("disk", {&counts});
        };
        CHECK(c.negotiate(client_flags() + option(info, info_data("disk"))
                          + option(go, info_data("disk"))));
        CHECK(counts.opened == 2);
    }
    SECTION("an export that was removed is closed")
    {
        c.observer.at_number[go] = [&] { c.exports.remove("disk"); };
        CHECK_FALSE(c.negotiate(client_flags() + option(info, info_data("disk"))
                                + option(go, info_data("disk")) + option(abort_)));
        CHECK(counts.opened == 1);
    }
    SECTION("INFO, then close")
    {
        c.negotiate(client_flags() + option(info, info_data("disk")));
        CHECK(counts.opened == 1);
    }
    SECTION("INFO, then ABORT")
    {
        c.negotiate(client_flags() + option(info, info_data("disk")) + option(abort_));
        CHECK(counts.opened == 1);
    }
    SECTION("an unknown name opens nothing")
    {
        c.negotiate(client_flags() + option(info, info_data("other"))
                    + option(export_name, text("x")));
        CHECK(counts.opened == 0);
    }
    CHECK(counts.open_now == 0);
}

TEST_CASE("session/negotiate: a handshake causes a bounded number of opens")
{
    opening_disk::counts counts;
    client c{{&counts}};
    for (int i = 1; i < 100; ++i)
        c.exports.add(std::to_string(i), {&counts});
    auto said = client_flags();
    SECTION("one for each option, and one more for each listed export")
    {
        said = said + option(list);
        for (int i = 0; i < 3000; ++i)
            said = said + option(info, info_data(i % 2 == 0 ? "1" : "2"));
        CHECK_FALSE(c.negotiate(said));
        CHECK(counts.opened == 132);
        CHECK(c.ended() == errc::too_many_options);
    }
    SECTION("INFO and LIST_META_CONTEXT of each listed export are within the limit")
    {
        said = said + option(8) + option(list);
        for (int i = 1; i < 100; ++i) {
            const auto name = std::to_string(i);
            said = said + option(info, info_data(name))
                + option(9, big(static_cast<std::uint32_t>(name.size())) + text(name) + big(0U));
        }
        CHECK(c.negotiate(said + option(go, info_data("disk"))));
        CHECK(counts.opened == 100);
    }
    CHECK(counts.open_now == 0);
}

TEST_CASE("session/negotiate: an export that fails to open is refused, and the observer gets the "
          "cause (B03)")
{
    opening_disk::counts counts;
    client c{{&counts}};
    SECTION("unknown")
    {
        CHECK_FALSE(c.negotiate(client_flags() + option(go, info_data("nosuch")) + option(abort_)));
        CHECK(c.observer.heard.at(1) == "option 7 refused: there is no such export");
    }
    SECTION("open throws")
    {
        counts.refuse = std::make_error_code(std::errc::no_such_device);
        CHECK_FALSE(c.negotiate(client_flags() + option(go, info_data("disk")) + option(abort_)));
        CHECK(c.observer.heard.at(1) == "option 7 refused: " + counts.refuse.message());
    }
    CHECK_FALSE(c.ended());
    CHECK_FALSE(c.context->admitted);
}

TEST_CASE("session/negotiate: the ways in which a handshake ends")
{
    opening_disk::counts counts;
    client c{{&counts}};
    SECTION("ABORT is clean")
    {
        CHECK_FALSE(c.negotiate(client_flags() + option(abort_) + option(list)));
        CHECK_FALSE(c.ended());
        CHECK(c.stream->unread() == 16);
    }
    SECTION("a close between options is clean")
    {
        CHECK_FALSE(c.negotiate(client_flags()));
        CHECK_FALSE(c.ended());
        CHECK_FALSE(c.negotiate(client_flags() + option(list)));
        CHECK_FALSE(c.ended());
    }
    SECTION("a close anywhere else is not clean")
    {
        const auto whole = client_flags() + option(go, info_data("disk"));
        for (std::size_t n = 0; n < whole.size(); ++n) {
            CAPTURE(n);
            const bytes said(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n));
            CHECK_FALSE(c.negotiate(said));
            if (n == 0 || n == 4)  // between messages
                CHECK_FALSE(c.ended());
            else
                CHECK(c.ended() == errc::cut_short);
        }
        CHECK(counts.opened == 0);
    }
    SECTION("a violated rule is the reason of the end")
    {
        CHECK_FALSE(c.negotiate(big(4U)));
        CHECK(c.ended() == errc::unknown_client_flags);
        CHECK_FALSE(c.negotiate(client_flags() + bytes(16)));
        CHECK(c.ended() == errc::bad_option_magic);
        CHECK_FALSE(c.negotiate(client_flags() + option(export_name, text("nosuch"))));
        CHECK(c.ended() == errc::export_name_refused);
    }
    CHECK_FALSE(c.context->admitted);
}

TEST_CASE("session/negotiate: not one byte is received beyond GO (P19)")
{
    opening_disk::counts counts;
    client c{{&counts}};
    CHECK(c.negotiate(client_flags() + option(go, info_data("disk")) + request(0, 1, 0, 1)));
    CHECK(c.stream->unread() == 28);
}

TEST_CASE("session/negotiate: the client flags and the header of an option are received together")
{
    opening_disk::counts counts;
    client c{{&counts}};
    CHECK(c.negotiate(client_flags() + option(go, info_data("disk"))));
    // The greeting; flags and header; the name; the reply.
    CHECK(c.stream->operations() == 4);
    const auto heard = c.heard();
    // In pieces of any size, nothing changes.
    for (std::size_t n = 1; n < 24; ++n) {
        CHECK(c.negotiate(client_flags() + option(go, info_data("disk")), {.read = n}));
        CHECK(c.heard() == heard);
    }
    // Not more than the header.
    c.negotiate(client_flags() + option(abort_) + option(go, info_data("disk")));
    CHECK(c.stream->unread() == option(go, info_data("disk")).size());
}

TEST_CASE("session/negotiate: bytes that are not an option are not reported to the observer as one")
{
    opening_disk::counts counts;
    client c{{&counts}};
    c.negotiate(client_flags() + option(list) + bytes(16));
    CHECK(c.observer.heard == words{"script option 3 of 0"});
}

TEST_CASE(
    "session/negotiate: ABORT is a clean end, also of a client that does not wait for its ACK "
    "(P29, O22)")
{
    opening_disk::counts counts;
    client c{{&counts}};
    // greeting, flags and option succeed; the send of the ACK fails
    c.negotiate(client_flags() + option(abort_), {.fails_at = 3});
    CHECK_FALSE(c.ended());
}

TEST_CASE("session/negotiate: a stopping server refuses all options but ABORT (P24, L02)")
{
    opening_disk::counts counts;
    client c{{&counts}};
    c.stopping = true;
    CHECK_FALSE(c.negotiate(client_flags() + option(go, info_data("disk")) + option(abort_)));
    CHECK(counts.opened == 0);
    CHECK(as_text(c.stream->heard()).find("shutting down") != std::string_view::npos);
    CHECK_FALSE(c.ended());
}

TEST_CASE("session/negotiate: the handshake has one deadline from its start to its end")
{
    opening_disk::counts counts;
    client c{{&counts}};
    c.limits.handshake_deadline = std::chrono::seconds{1};
    SECTION("it is armed until a handshake without an export ends")
    {
        c.negotiate(client_flags() + option(list));
        CHECK_FALSE(c.context->deadline.overdue());
        c.clock.advance_to(nbd::session::ticker::ticks(c.limits.handshake_deadline));
        CHECK(c.context->deadline.overdue());
        CHECK(c.context->deadline.reason() == errc::handshake_timeout);
    }
    SECTION("it is not armed in transmission")
    {
        c.negotiate(client_flags() + option(go, info_data("disk")));
        c.clock.advance_to(1'000'000);
        CHECK_FALSE(c.context->deadline.overdue());
    }
}

TEST_CASE("session/negotiate: no more exports are listed than the settings allow")
{
    opening_disk::counts counts;
    client c{{&counts}};
    for (int i = 0; i < 5; ++i)
        c.exports.add("z" + std::to_string(i), {&counts});
    c.limits.exports_listed = 3;
    c.negotiate(client_flags() + option(list));
    CHECK(c.heard()
          == shown(hex("4e42444d41474943 49484156454f5054 0003")
                   + option_reply(list, 2,
                                  big(4U)
                                      + text("disk"
                                             "disk"))
                   + option_reply(list, 2,
                                  big(2U)
                                      + text("z0"
                                             "z0"))
                   + option_reply(list, 2,
                                  big(2U)
                                      + text("z1"
                                             "z1"))
                   + option_reply(list, 1)));
}

TEST_CASE("session/negotiate: a long list is sent in small pieces, whole and in order")
{
    opening_disk::counts counts;
    client c{{&counts}};
    const std::string text_of_4096(4096, 'd');
    bytes expected = hex("4e42444d41474943 49484156454f5054 0003");
    const auto add = [&](const std::string& name, const std::string& description) {
        expected = expected
            + option_reply(list, 2,
                           big(static_cast<std::uint32_t>(name.size())) + text(name)
                               + text(description));
    };
    add("disk", "disk");
    for (int i = 0; i < 300; ++i) {
        const auto name = "e" + std::to_string(1000 + i) + std::string(4091, 'n');
        c.exports.add(name, {&counts}, {.description = text_of_4096});
        add(name, text_of_4096);
    }
    expected = expected + option_reply(list, 1);
    c.negotiate(client_flags() + option(list));
    CHECK((c.stream->heard() == expected));
    for (const auto& piece : c.stream->sends)
        CHECK(piece.size() <= (16 << 10) + 20 + 4 + 2 * 4096 + 20);
}

TEST_CASE("session/negotiate: exports are added and removed while they are listed")
{
    opening_disk::counts counts;
    client c{{&counts}};
    const nbd::export_settings long_text{.description = std::string(4096, 'd')};
    for (int i = 100; i < 200; ++i)
        c.exports.add("e" + std::to_string(i), {&counts}, long_text);
    int sends = 0;
    c.on_send = [&] {  // the set is not locked during a send
        if (++sends == 3) {
            for (int i = 100; i < 150; ++i)
                c.exports.remove("e" + std::to_string(i));
            c.exports.add("e1995", {&counts}, long_text);
        }
    };
    c.negotiate(client_flags() + option(list));
    const auto all = std::string{as_text(c.stream->heard())};
    CHECK(all.find("e100") != all.npos);
    CHECK(all.find("e149") == all.npos);
    for (const auto* const name : {"e150", "e199d", "e1995"})
        CHECK(all.find(name) != all.npos);
    CHECK(sends > 10);
}

TEST_CASE("session/negotiate: stopping the server ends a list that is being sent")
{
    opening_disk::counts counts;
    client c{{&counts}};
    const nbd::export_settings long_text{.description = std::string(4096, 'd')};
    for (int i = 0; i < 1000; ++i)
        c.exports.add("e" + std::to_string(i), {&counts}, long_text);
    int sends = 0;
    c.on_send = [&] { c.stopping = ++sends == 3; };
    c.negotiate(client_flags() + option(list) + option(abort_));
    CHECK(c.stream->sends.size() == 5);  // greeting, two pieces, ERR_SHUTDOWN, the answer to ABORT
    CHECK(c.stream->heard().size() < 64 << 10);
    CHECK(as_text(c.stream->heard()).find("shutting down") != std::string_view::npos);
}

TEST_CASE("session/negotiate: the limit of listed exports also holds for a list in pieces")
{
    opening_disk::counts counts;
    client c{{&counts}};
    const nbd::export_settings long_text{.description = std::string(4096, 'd')};
    for (int i = 100; i < 200; ++i)
        c.exports.add("e" + std::to_string(i), {&counts}, long_text);
    c.limits.exports_listed = 50;
    c.negotiate(client_flags() + option(list));
    const auto all = std::string{as_text(c.stream->heard())};
    CHECK(all.find("e148") != all.npos);  // behind "disk"
    CHECK(all.find("e149") == all.npos);
}
