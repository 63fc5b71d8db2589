// SPDX-License-Identifier: MIT
// The table of a connection's ends: each state with each event. What follows from a state for the
// requests of a real client is in grid/waiting_ends.test.cpp and grid/stop_matrix.test.cpp.
#include "catch.hpp"
#include <nbd/session/ending.hpp>

#include <array>
#include <cstddef>
#include <string>
#include <system_error>
#include <vector>

using nbd::errc;
using nbd::session::ending;

namespace {

enum class event {
    disc,
    sending_fails,
    client_closes,  ///< as the server notices
    limit_passes,
    program_disconnects,
    server_stops,  ///< the grace of a stop is over
};
constexpr std::array events{event::disc,         event::sending_fails,       event::client_closes,
                            event::limit_passes, event::program_disconnects, event::server_stops};

/// *Returns* whether the socket is to be shut down.
bool happen(ending& e, event what)
{
    switch (what) {
    case event::disc:
        e.disc_received();
        return false;
    case event::sending_fails:
        e.sending_failed();
        return false;
    case event::client_closes:
        return e.close(errc::cut_short);
    case event::limit_passes:
        return e.close(errc::idle_timeout);
    case event::program_disconnects:
        return e.close(errc::disconnected);
    default:
        return e.close(errc::server_stopped);
    }
}

struct after {
    errc reason;
    bool lost;
    bool shut_down;  ///< by this event
};
constexpr auto open = errc{};
constexpr auto cut = errc::cut_short;
constexpr auto late = errc::idle_timeout;
constexpr auto told = errc::disconnected;
constexpr auto stop = errc::server_stopped;
constexpr bool yes = true;
constexpr bool no = false;

struct state {
    std::string name;
    std::vector<event> before;  ///< that lead to it
    std::array<after, events.size()> next;
};
// For each state, what it is after: DISC, sending fails, the client closes, a limit passes, the
// program disconnects the client, the grace of a stop is over.
const std::vector<state> table{
    {"open",
     {},
     {{{open, no, no},
       {open, yes, no},
       {cut, yes, yes},
       {late, yes, yes},
       {told, yes, yes},
       {stop, yes, yes}}}},
    {"DISC received",
     {event::disc},
     {{{open, no, no},
       {open, no, no},
       {cut, no, yes},
       {late, yes, yes},
       {told, yes, yes},
       {stop, yes, yes}}}},
    {"sending failed",
     {event::sending_fails},
     {{{open, no, no},
       {open, yes, no},
       {cut, yes, yes},
       {late, yes, yes},
       {told, yes, yes},
       {stop, yes, yes}}}},
    {"DISC received, sending failed",
     {event::disc, event::sending_fails},
     {{{open, no, no},
       {open, no, no},
       {cut, no, yes},
       {late, yes, yes},
       {told, yes, yes},
       {stop, yes, yes}}}},
    {"closed by the client",
     {event::client_closes},
     {{{cut, no, no},
       {cut, yes, no},
       {cut, yes, no},
       {late, yes, no},
       {told, yes, no},
       {stop, yes, no}}}},
    {"DISC received, closed by the client",
     {event::disc, event::client_closes},
     {{{cut, no, no},
       {cut, no, no},
       {cut, no, no},
       {late, yes, no},
       {told, yes, no},
       {stop, yes, no}}}},
    {"a limit passed",
     {event::limit_passes},
     {{{late, yes, no},
       {late, yes, no},
       {late, yes, no},
       {late, yes, no},
       {late, yes, no},
       {late, yes, no}}}},
    {"DISC received, disconnected by the program",
     {event::disc, event::program_disconnects},
     {{{told, yes, no},
       {told, yes, no},
       {told, yes, no},
       {told, yes, no},
       {told, yes, no},
       {told, yes, no}}}},
    {"the grace of a stop was over",
     {event::server_stops},
     {{{stop, yes, no},
       {stop, yes, no},
       {stop, yes, no},
       {stop, yes, no},
       {stop, yes, no},
       {stop, yes, no}}}},
};

}  // namespace

TEST_CASE("session/ending: each state with each event")
{
    for (const auto& from : table) {
        for (std::size_t i = 0; i < events.size(); ++i) {
            INFO(from.name << ", event " << i);
            ending e;
            for (const auto earlier : from.before)
                happen(e, earlier);
            CHECK(happen(e, events[i]) == from.next[i].shut_down);
            CHECK(e.closed_for() == from.next[i].reason);
            CHECK(e.lost() == from.next[i].lost);
        }
    }
}

TEST_CASE("session/ending: the observer gets the server's reason, then that of the session")
{
    const std::error_code clean;
    const std::error_code reset = std::make_error_code(std::errc::connection_reset);
    ending e;
    CHECK(e.reason(clean, false) == clean);
    CHECK(e.reason(reset, false) == reset);
    CHECK(e.reason(errc::cut_short, false) == errc::cut_short);
    // The server that stops ends the stream of requests itself.
    CHECK(e.reason(clean, true) == errc::server_stopped);
    CHECK(e.reason(errc::cut_short, true) == errc::server_stopped);
    CHECK(e.reason(reset, true) == reset);
    e.close(errc::evicted);
    for (const bool stopping : {false, true}) {
        CHECK(e.reason(clean, stopping) == errc::evicted);
        CHECK(e.reason(reset, stopping) == errc::evicted);
        CHECK(e.reason(errc::cut_short, stopping) == errc::evicted);
    }
}
