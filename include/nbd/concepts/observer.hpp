// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/names_member.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/protocol/request.hpp>
#include <nbd/vocabulary/printable.hpp>

#include <string_view>
#include <system_error>

/// An Observer is notified of the events of a server: a class with any number, including zero, of
/// these members. An event whose member is absent costs nothing. A misspelled member counts as
/// absent; a member of one of these names with other parameters is a compile error.
///
/// | member | called |
/// |---|---|
/// | `at_connect(const client&)` | after a client was accepted, before its handshake |
/// | `at_option(const client&, const protocol::option_header&)` | for each option of the handshake |
/// | `at_export_opened(const client&, std::string_view name, const protocol::export_terms&)` | when a client enters transmission |
/// | `at_request(const client&, const protocol::request&)` | before a request is carried out |
/// | `at_reply(const client&, const protocol::request&, protocol::error_value)` | when its reply is made |
/// | `at_error(const client&, std::error_code cause, std::string_view what)` | with the cause of an error reply or of a refused option |
/// | `at_disconnect(const client&, std::error_code why)` | when a client has left; no `why` after DISC, ABORT or a clean close |
/// | `at_accept_error(std::error_code)` | when accept(2) failed, or a new connection was refused |
///
/// Names and texts can come from a client: pass them through nbd::printable before they are shown.
/// *Errors*: members must not throw.
/// *Thread safety*: members are called from the threads of all clients at the same time. The
/// observer is moved into the server, so put counters and mutexes into an object that it points to.
/// *Lifetime*: arguments are valid during the call.
namespace nbd {

/// An observer without members.
struct silent {};

/// Calls `observer.at_X(arguments...)` where the observer has it.
namespace notify {

struct every_event {
    int at_connect, at_option, at_export_opened, at_request, at_reply, at_error, at_disconnect,
        at_accept_error;
};

#define NBD_NOTIFY(hook)                                                                           \
    NBD_NAMES_MEMBER(every_event, hook)                                                            \
    template <class O, class... Args>                                                              \
    void hook(O& observer, const Args&... args) noexcept                                           \
    {                                                                                              \
        if constexpr (requires { observer.hook(args...); })                                        \
            observer.hook(args...);                                                                \
        else                                                                                       \
            static_assert(!names_##hook<O>(),                                                      \
                          "nbd: this observer's " #hook " has the wrong shape; see "               \
                          "nbd/concepts/observer.hpp for its parameters");                         \
    }

NBD_NOTIFY(at_connect)
NBD_NOTIFY(at_option)
NBD_NOTIFY(at_export_opened)
NBD_NOTIFY(at_request)
NBD_NOTIFY(at_reply)
NBD_NOTIFY(at_error)
NBD_NOTIFY(at_disconnect)
NBD_NOTIFY(at_accept_error)
#undef NBD_NOTIFY

/// Whether the observer has a member with the name of an event.
template <class O>
inline constexpr bool hears_anything = names_at_connect<O>() || names_at_option<O>()
    || names_at_export_opened<O>() || names_at_request<O>() || names_at_reply<O>()
    || names_at_error<O>() || names_at_disconnect<O>() || names_at_accept_error<O>();

}  // namespace notify

}  // namespace nbd
