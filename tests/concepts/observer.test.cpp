// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/concepts/observer.hpp>

#include <string>
#include <vector>

namespace {

struct hears_all {
    std::vector<std::string> heard;
    void at_connect(const nbd::client& who) { heard.push_back("connect " + who.peer); }
    void at_option(const nbd::client&, const nbd::protocol::option_header&)
    {
        heard.push_back("option");
    }
    void at_export_opened(const nbd::client&, std::string_view name,
                          const nbd::protocol::export_terms&)
    {
        heard.push_back("opened " + std::string{name});
    }
    void at_request(const nbd::client&, const nbd::protocol::request&)
    {
        heard.push_back("request");
    }
    void at_reply(const nbd::client&, const nbd::protocol::request&, nbd::protocol::error_value)
    {
        heard.push_back("reply");
    }
    void at_option_error(const nbd::client&, const nbd::protocol::option_header&,
                         const nbd::failure& why)
    {
        heard.push_back("option_error " + why.text);
    }
    void at_error(const nbd::client&, const nbd::protocol::request&, const nbd::failure& why)
    {
        heard.push_back("error " + why.text);
    }
    void at_disconnect(const nbd::client&, std::error_code) { heard.push_back("disconnect"); }
    void at_drain_error(std::string_view, nbd::drain_reason, const nbd::failure&)
    {
        heard.push_back("drain_error");
    }
    void at_accept_error(std::error_code) { heard.push_back("accept_error"); }
};
struct hears_peer {
    std::string heard;
    void at_accept_error(std::error_code why, std::string_view peer)
    {
        heard.append(peer) += ": " + why.message();
    }
};
static_assert(nbd::diagnosis::observer_is_sound<hears_peer>());
struct hears_one {
    int connects = 0;
    void at_connect(const nbd::client&) { ++connects; }
};
static_assert(std::is_empty_v<nbd::silent>);

template <class O>
void tell_everything(O& o)
{
    const nbd::client who{.id = 1, .peer = "p"};
    nbd::notify::at_connect(o, who);
    nbd::notify::at_option(o, who, nbd::protocol::option_header{});
    nbd::notify::at_export_opened(o, who, std::string_view{"x"}, nbd::protocol::export_terms{});
    nbd::notify::at_option_error(o, who, nbd::protocol::option_header{},
                                 nbd::failure{std::errc::io_error, "no"});
    const auto note = nbd::notify::at_request(o, who, nbd::protocol::request{});
    nbd::notify::at_reply(o, who, nbd::protocol::request{}, nbd::protocol::error_value::none, note);
    nbd::notify::at_error(o, who, nbd::protocol::request{},
                          nbd::failure{std::errc::io_error, "why"});
    nbd::notify::at_disconnect(o, who, std::error_code{});
    nbd::notify::at_drain_error(o, std::string_view{}, nbd::drain_reason{}, nbd::failure{});
    nbd::notify::at_accept_error(o, std::error_code{});
}

}  // namespace

TEST_CASE("concepts/observer: existing hooks are called, and missing ones are optional")
{
    hears_all all;
    tell_everything(all);
    CHECK(all.heard
          == std::vector<std::string>{"connect p", "option", "opened x", "option_error no",
                                      "request", "reply", "error why", "disconnect", "drain_error",
                                      "accept_error"});
    hears_one one;
    tell_everything(one);
    CHECK(one.connects == 1);
    nbd::silent none;
    tell_everything(none);
    hears_peer peer;
    nbd::notify::at_accept_error(peer, std::make_error_code(std::errc::io_error), "p");
    CHECK(peer.heard == "p: Input/output error");
    tell_everything(peer);
    CHECK(peer.heard == "p: Input/output error: Success");
}

namespace {

struct numbers_requests {
    int last = 0;
    std::vector<int> replied;
    int at_request(const nbd::client&, const nbd::protocol::request&) { return ++last; }
    void at_reply(const nbd::client&, const nbd::protocol::request&, nbd::protocol::error_value,
                  int number)
    {
        replied.push_back(number);
    }
};
struct drops_notes {
    int replies = 0;
    [[nodiscard]] int at_request(const nbd::client&, const nbd::protocol::request&) { return 1; }
    void at_reply(const nbd::client&, const nbd::protocol::request&, nbd::protocol::error_value)
    {
        ++replies;
    }
};
static_assert(nbd::diagnosis::observer_is_sound<numbers_requests>());
static_assert(nbd::diagnosis::observer_is_sound<drops_notes>());
static_assert(std::is_empty_v<nbd::notify::note_of<hears_all>>);

}  // namespace

TEST_CASE("concepts/observer: what at_request returns is given to at_reply")
{
    numbers_requests numbers;
    tell_everything(numbers);
    tell_everything(numbers);
    CHECK(numbers.replied == std::vector{1, 2});
    drops_notes drops;
    tell_everything(drops);
    CHECK(drops.replies == 1);
}
