// SPDX-License-Identifier: MIT
// The handshake loop over a script: opens, the end, and calls of the observer.
#include "catch.hpp"
#include "support/session.hpp"

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
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

TEST_CASE("session/negotiate: a handshake causes a bounded number of calls of the program")
{
    opening_disk::counts counts;
    client c{{&counts}};
    for (int i = 1; i < 100; ++i)
        c.exports.add(std::to_string(i), {&counts});
    int calls = 0;
    c.exports.on_lookup([&](std::string_view, const nbd::client&) {
        ++calls;
        return std::shared_ptr<opening_disk>{};
    });
    auto said = client_flags();
    SECTION("lookups: one for each option, and four more for each listed export")
    {
        said = said + option(list);
        for (int i = 0; i < 3000; ++i)
            said = said + option(info, info_data("nosuch"));
        CHECK_FALSE(c.negotiate(said));
        CHECK(calls == 432);
        CHECK(c.ended() == errc::too_many_options);
    }
    SECTION("lists")
    {
        c.exports.on_list([&](nbd::name_list&) { ++calls; });
        for (int i = 0; i < 3000; ++i)
            said = said + option(list);
        CHECK_FALSE(c.negotiate(said));
        CHECK(calls == 432);
        CHECK(c.ended() == errc::too_many_options);
    }
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

TEST_CASE("session/negotiate: no more exports are listed than the settings allow, and the "
          "observer is told that some are not")
{
    opening_disk::counts counts;
    client c{{&counts}};
    const int more = GENERATE(1, 2, 5);  // one fewer than LIST names; as many; more
    const auto names = [more](auto add) {
        for (int i = 0; i < more; ++i)
            add("z" + std::to_string(i));
    };
    if (GENERATE(false, true))
        c.exports.on_list([&](nbd::name_list& to) { names([&](const auto& n) { to.add(n); }); });
    else
        names([&](const auto& n) { c.exports.add(n, {&counts}); });
    c.limits.exports_listed = 3;
    c.negotiate(client_flags() + option(list));
    auto told = words{"script option 3 of 0"};
    if (more > 2)
        told.push_back("option 3 refused: there are more exports than LIST may name");
    CHECK(c.observer.heard == told);
    if (more < 2)
        return;
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
    const auto all = as_text(c.stream->heard());
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
    const auto all = as_text(c.stream->heard());
    CHECK(all.find("e148") != all.npos);  // behind "disk"
    CHECK(all.find("e149") == all.npos);
}

// --- open with a purpose ------------------------------------------------------------------------

namespace {

/// Notes the name and the purpose of each `open`.
struct asking_disk {
    struct state {
        std::uint64_t size() const { return 512; }
        void read(std::uint64_t, std::span<std::byte>) {}
    };
    state open(const nbd::client& who, nbd::open_purpose why)
    {
        notes->push_back(who.export_name
                         + (why == nbd::open_purpose::transmission ? " to use" : " to ask"));
        return {};
    }
    words* notes;
};

bytes meta_data(const char* name)
{
    const std::string n{name};
    return big(static_cast<std::uint32_t>(n.size())) + text(n) + big(0U);
}

}  // namespace

TEST_CASE("session/negotiate: an `open` that is told its purpose is called for each purpose")
{
    words notes;
    one_client<asking_disk, listener> c{{&notes}};
    c.exports.add("other", {&notes});
    const auto said = client_flags() + option(8);
    SECTION("GO alone")
    {
        CHECK(c.negotiate(said + option(go, info_data("disk"))));
        CHECK(notes == words{"disk to use"});
    }
    SECTION("EXPORT_NAME alone")
    {
        CHECK(c.negotiate(said + option(export_name, text("disk"))));
        CHECK(notes == words{"disk to use"});
    }
    SECTION("options that ask share one object, and GO gets another")
    {
        CHECK(c.negotiate(said + option(info, info_data("disk")) + option(9, meta_data("disk"))
                          + option(10, meta_data("disk")) + option(go, info_data("disk"))));
        CHECK(notes == words{"disk to ask", "disk to use"});
    }
    SECTION("the name is that of the export, also for the default export")
    {
        c.negotiate(said + option(info, info_data("")) + option(info, info_data("other")));
        CHECK(notes == words{"disk to ask", "other to ask"});
        CHECK(c.context->who.export_name.empty());
    }
    SECTION("what was opened to be used serves a client that asks again")
    {
        c.exports.add(
            "strict", {&notes},
            {.blocks = nbd::block_sizes{512, 4096, 1 << 20}, .require_block_sizes = true});
        CHECK_FALSE(c.negotiate(said + option(go, info_data("strict"))
                                + option(info, info_data("strict")) + option(abort_)));
        CHECK(notes == words{"strict to use"});
    }
}

// --- lookups ------------------------------------------------------------------------------------

namespace {

/// A client of a set that looks up names in a store of disks.
struct looking_client : client {
    looking_client() : client{opening_disk{nullptr}}
    {
        exports.remove("disk");
        exports.on_lookup([this](std::string_view name, const nbd::client& who) {
            asked.push_back(std::string{name});
            named.push_back(who.export_name);
            if (refuse)
                throw std::system_error{refuse, "a secret"};
            const auto at = store.find(name);
            return nbd::found_export<opening_disk>{at == store.end() ? nullptr : at->second,
                                                   settings};
        });
    }
    void keep(const std::string& name)
    {
        store[name] = std::make_shared<opening_disk>(opening_disk{&counts});
    }
    opening_disk::counts counts;
    std::map<std::string, std::shared_ptr<opening_disk>, std::less<>> store;
    nbd::export_settings settings;
    std::error_code refuse;
    words asked;
    words named;
};

}  // namespace

TEST_CASE("session/negotiate: an export that was not added is looked up")
{
    looking_client c;
    c.keep("monday");
    SECTION("for each option, and opened once")
    {
        CHECK(c.negotiate(client_flags() + option(8) + option(info, info_data("monday"))
                          + option(9, meta_data("monday")) + option(10, meta_data("monday"))
                          + option(go, info_data("monday"))));
        CHECK(c.asked == words(4, "monday"));
        CHECK(c.named == words(4, "monday"));
        CHECK(c.counts.opened == 1);
        CHECK(c.context->who.export_name == "monday");
        CHECK(c.observer.heard.back() == "opened monday of 512");
    }
    SECTION("for EXPORT_NAME")
    {
        CHECK(c.negotiate(client_flags() + option(export_name, text("monday"))));
        CHECK(c.asked == words{"monday"});
    }
    SECTION("null: there is no such export")
    {
        CHECK_FALSE(
            c.negotiate(client_flags() + option(go, info_data("tuesday")) + option(abort_)));
        CHECK(c.asked == words{"tuesday"});
        CHECK(c.observer.heard[1] == "option 7 refused: there is no such export");
        CHECK(as_text(c.stream->heard()).find("no export \"tuesday\"") != std::string_view::npos);
        CHECK(c.context->who.export_name.empty());
    }
    SECTION("an exception refuses the client; the observer gets its text")
    {
        c.refuse = std::make_error_code(std::errc::permission_denied);
        CHECK_FALSE(c.negotiate(client_flags() + option(info, info_data("monday"))
                                + option(go, info_data("monday")) + option(abort_)));
        CHECK(c.counts.opened == 0);
        const auto heard = as_text(c.stream->heard());
        CHECK(heard.find("not permitted") != heard.npos);
        CHECK(heard.find("secret") == heard.npos);
        CHECK(c.observer.heard[1].find("a secret") != std::string::npos);
    }
    SECTION("an exception closes what another option has opened")
    {
        c.observer.at_number[go] = [&] {
            CHECK(c.counts.open_now == 1);
            c.refuse = std::make_error_code(std::errc::io_error);
        };
        CHECK_FALSE(c.negotiate(client_flags() + option(info, info_data("monday"))
                                + option(go, info_data("monday")) + option(abort_)));
        CHECK(c.counts.open_now == 0);
    }
    SECTION("an export that was added comes first")
    {
        c.exports.add("monday", {&c.counts});
        CHECK(c.negotiate(client_flags() + option(go, info_data("monday"))));
        CHECK(c.asked.empty());
    }
    SECTION("the empty name is looked up as it is, or by the name of set_default")
    {
        c.keep("");
        c.negotiate(client_flags() + option(info, info_data("")));
        c.exports.set_default("monday");
        CHECK(c.negotiate(client_flags() + option(go, info_data(""))));
        CHECK(c.asked == words{"", "monday"});
        CHECK(c.context->who.export_name == "monday");
    }
    SECTION("settings that are not allowed refuse the client")
    {
        c.settings.description = "\xff";
        CHECK_FALSE(c.negotiate(client_flags() + option(go, info_data("monday")) + option(abort_)));
        CHECK(c.observer.heard[1].find("description must be UTF-8") != std::string::npos);
    }
    SECTION("a function that is replaced is not called again")
    {
        c.exports.on_lookup(
            [](std::string_view, const nbd::client&) { return std::shared_ptr<opening_disk>{}; });
        CHECK_FALSE(c.negotiate(client_flags() + option(go, info_data("monday")) + option(abort_)));
        CHECK(c.asked.empty());
    }
}

TEST_CASE("session/negotiate: what is looked up anew replaces what the client has open")
{
    looking_client c;
    c.keep("monday");
    const auto info_then_go =
        client_flags() + option(info, info_data("monday")) + option(go, info_data("monday"));
    SECTION("another object")
    {
        c.observer.at_number[go] = [&] { c.keep("monday"); };
        CHECK(c.negotiate(info_then_go));
        CHECK(c.counts.opened == 2);
        CHECK(c.counts.open_now == 0);  // `negotiate` returned, and its export is closed
    }
    SECTION("other settings")
    {
        c.observer.at_number[go] = [&] { c.settings.rotational = true; };
        CHECK(c.negotiate(info_then_go));
        CHECK(c.counts.opened == 2);
        CHECK((c.agreed.terms.flags & nbd::protocol::transmission_flag::rotational) != 0);
    }
    SECTION("the same object after a removal")
    {
        c.observer.at_number[go] = [&] { CHECK(c.exports.remove("monday")); };
        CHECK(c.negotiate(info_then_go));
        CHECK(c.counts.opened == 2);
    }
    SECTION("nothing, after the store has forgotten it")
    {
        c.observer.at_number[go] = [&] { c.store.clear(); };
        CHECK_FALSE(c.negotiate(info_then_go + option(abort_)));
        CHECK(c.counts.open_now == 0);
    }
}

TEST_CASE("session/negotiate: settings that change between INFO and GO are those of GO")
{
    opening_disk::counts counts;
    client c{{&counts}};
    c.observer.at_number[go] = [&] { CHECK(c.exports.set_description("disk", "another")); };
    CHECK(c.negotiate(client_flags() + option(info, info_data("disk"))
                      + option(go, info_data("disk", {2}))));
    CHECK(counts.opened == 2);
    CHECK(as_text(c.stream->heard()).find("another") != std::string_view::npos);
}

TEST_CASE("session/negotiate: names that are listed by a function, between those that were added")
{
    opening_disk::counts counts;
    client c{{&counts}};
    c.exports.add("n2", {&counts}, {.description = "added"});
    int pages = 0;
    const auto listed = [](const char* name, const char* description) {
        return option_reply(list, 2,
                            big(static_cast<std::uint32_t>(std::string{name}.size())) + text(name)
                                + text(description));
    };
    SECTION("merged, each once")
    {
        c.exports.on_list([&](nbd::name_list& to) {
            ++pages;
            for (const auto* const name : {"n3", "n2", "n1"})
                to.add(name, "found");
        });
        c.negotiate(client_flags() + option(list));
        CHECK(c.heard()
              == shown(hex("4e42444d41474943 49484156454f5054 0003") + listed("disk", "disk")
                       + listed("n1", "found") + listed("n2", "added") + listed("n3", "found")
                       + option_reply(list, 1)));
        CHECK(pages == 1);
    }
    SECTION("an exception ends the answer with an error, and the observer gets its text")
    {
        c.exports.on_list([&](nbd::name_list&) { throw std::runtime_error{"a secret"}; });
        c.negotiate(client_flags() + option(list) + option(go, info_data("disk")));
        const auto heard = as_text(c.stream->heard());
        CHECK(heard.find("cannot be listed") != heard.npos);
        CHECK(heard.find("secret") == heard.npos);
        CHECK(c.observer.heard[1] == "option 3 refused: a secret");
        CHECK(counts.opened == 1);  // the client goes on
    }
    SECTION("page by page, not more than the limit, and stopping the server ends it")
    {
        c.exports.on_list([&](nbd::name_list& to) {
            ++pages;
            for (int i = 0; i < 10'000; ++i)
                to.add("s" + std::to_string(10'000 + i));
        });
        int sends = 0;
        SECTION("all")
        {
            c.limits.exports_listed = 20'000;
            c.negotiate(client_flags() + option(list));
            const auto all = as_text(c.stream->heard());
            CHECK(all.find("s10000") != all.npos);
            CHECK(all.find("s19999s19999") != all.npos);
            CHECK(c.stream->heard().size() == 18 + 32 + 31 + 10'000 * (24 + 12) + 20);
            CHECK(pages > 20);
            for (const auto& piece : c.stream->sends)
                CHECK(piece.size() <= (16 << 10) + 64);
        }
        SECTION("the limit")
        {
            c.limits.exports_listed = 1000;
            c.negotiate(client_flags() + option(list));
            const auto all = as_text(c.stream->heard());
            CHECK(all.find("s10997") != all.npos);
            CHECK(all.find("s10998") == all.npos);
        }
        SECTION("stopping")
        {
            c.on_send = [&] { c.stopping = ++sends == 3; };
            c.negotiate(client_flags() + option(list) + option(abort_));
            CHECK(pages == 2);
        }
    }
}

TEST_CASE("session/negotiate: the time of the program's functions is not that of the client")
{
    looking_client c;
    c.keep("monday");
    const auto an_hour = [&c] {
        CHECK_FALSE(c.context->waiting);
        c.clock.advance_to(c.clock.now() + 3600 * 4);
    };
    c.counts.on_open = an_hour;
    c.exports.on_list([&](nbd::name_list& to) {
        an_hour();
        for (int i = 0; i < 1000; ++i)
            to.add("s" + std::to_string(i));
    });
    int checked = 0;
    c.on_send = [&] {
        ++checked;
        CHECK_FALSE(c.context->deadline.overdue());
    };
    c.at_end = c.on_send;
    c.negotiate(client_flags() + option(list) + option(info, info_data("monday")));
    CHECK(checked > 4);
    CHECK(c.counts.opened == 1);
    c.clock.advance_to(c.clock.now() + 11 * 4);
    CHECK(c.context->deadline.overdue());
}
