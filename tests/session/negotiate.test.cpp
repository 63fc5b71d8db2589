// SPDX-License-Identifier: MIT
// The handshake loop over a script: what is opened and when, how it ends, what the observer hears.
#include "catch.hpp"
#include "support/session.hpp"

#include <string>
#include <vector>

using namespace nbd_test;
using nbd::errc;

namespace {

/// Counts the clients that have it open.
struct opening_disk {
    struct counts {
        int opened = 0;
        int open_now = 0;
        std::error_code refuse;
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
        return state{*counts_};
    }
    counts* counts_;
};

struct listener {
    std::vector<std::string> heard;

    void at_option(const nbd::client& who, const nbd::protocol::option_header& o)
    {
        heard.push_back(who.peer + " option " + std::to_string(static_cast<std::uint32_t>(o.option))
                        + " of " + std::to_string(o.length));
    }
    void at_export_opened(const nbd::client&, std::string_view name,
                          const nbd::protocol::export_terms& terms)
    {
        heard.push_back("opened " + std::string{name} + " of " + std::to_string(terms.size));
    }
    void at_error(const nbd::client&, std::error_code cause, std::string_view)
    {
        heard.push_back("error: " + cause.message());
    }
};

constexpr std::uint32_t export_name = 1, abort_ = 2, list = 3, info = 6, go = 7;

using client = one_client<opening_disk, listener>;
using words = std::vector<std::string>;

}  // namespace

TEST_CASE("session/negotiate: greeting, options, and the export that was chosen")
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

TEST_CASE("session/negotiate: an export is opened when it is asked for, and INFO closes it again "
          "(P99, O19)")
{
    opening_disk::counts counts;
    client c{{&counts}};
    SECTION("clients that only connect open nothing (CVE-2019-14850)")
    {
        c.negotiate(client_flags() + option(list) + option(99));
        CHECK(counts.opened == 0);
    }
    SECTION("INFO many times, then GO: as many opens and closes, one left (CVE-2019-14851)")
    {
        auto said = client_flags();
        for (int i = 0; i < 30; ++i)
            said = said + option(info, info_data("disk"));
        CHECK(c.negotiate(said + option(go, info_data("disk"))));
        CHECK(counts.opened == 31);
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

TEST_CASE("session/negotiate: an export that does not open is refused, and the cause is told (B03)")
{
    opening_disk::counts counts;
    client c{{&counts}};
    SECTION("unknown")
    {
        CHECK_FALSE(c.negotiate(client_flags() + option(go, info_data("nosuch")) + option(abort_)));
        CHECK(c.observer.heard.at(1) == "error: there is no such export");
    }
    SECTION("open throws")
    {
        counts.refuse = std::make_error_code(std::errc::no_such_device);
        CHECK_FALSE(c.negotiate(client_flags() + option(go, info_data("disk")) + option(abort_)));
        CHECK(c.observer.heard.at(1) == "error: " + counts.refuse.message());
    }
    CHECK_FALSE(c.ended());
    CHECK_FALSE(c.context->admitted);
}

TEST_CASE("session/negotiate: how it can end")
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
    SECTION("a close anywhere else is not")
    {
        const auto whole = client_flags() + option(go, info_data("disk"));
        for (std::size_t n = 0; n < whole.size(); ++n) {
            CAPTURE(n);
            const bytes said(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n));
            CHECK_FALSE(c.negotiate(said));
            if (n == 0 || n == 4)  // nothing was said, or nothing was left unsaid
                CHECK_FALSE(c.ended());
            else
                CHECK(c.ended() == errc::cut_short);
        }
        CHECK(counts.opened == 0);
    }
    SECTION("what the negotiator says of a client that breaks the rules")
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

TEST_CASE("session/negotiate: something that is no option is not told to the observer as one")
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
    // greeting, flags, option, and then the ACK meets a closed socket
    c.negotiate(client_flags() + option(abort_), {.fails_at = 3});
    CHECK_FALSE(c.ended());
}

TEST_CASE("session/negotiate: a stopping server refuses options and lets ABORT through (P24, L02)")
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
    SECTION("armed until the end of a handshake that leads nowhere")
    {
        c.negotiate(client_flags() + option(list));
        CHECK_FALSE(c.context->deadline.overdue());
        c.clock.advance_to(nbd::session::ticker::ticks(c.limits.handshake_deadline));
        CHECK(c.context->deadline.overdue());
        CHECK(c.context->deadline.reason() == errc::handshake_timeout);
    }
    SECTION("and not after it")
    {
        c.negotiate(client_flags() + option(go, info_data("disk")));
        c.clock.advance_to(1'000'000);
        CHECK_FALSE(c.context->deadline.overdue());
    }
}

TEST_CASE("session/negotiate: no more exports are listed than settings allow")
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
