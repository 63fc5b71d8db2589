// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/names_member.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/protocol/request.hpp>
#include <nbd/vocabulary/printable.hpp>

#include <concepts>
#include <string_view>
#include <system_error>
#include <type_traits>

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
    concept hears_##hook = requires(O& observer, const Args&... args) { observer.hook(args...); }; \
    template <class O, class... Args>                                                              \
    void hook(O& observer, const Args&... args) noexcept                                           \
    {                                                                                              \
        if constexpr (hears_##hook<O, Args...>)                                                    \
            observer.hook(args...);                                                                \
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
concept hears_anything =
    names_at_connect<O> || names_at_option<O> || names_at_export_opened<O> || names_at_request<O>
    || names_at_reply<O> || names_at_error<O> || names_at_disconnect<O> || names_at_accept_error<O>;

}  // namespace notify

namespace diagnosis {

/// Whether the class is an observer. What is wrong becomes a compile error of one sentence if
/// `Explain` is true.
template <class O, bool Explain = false>
consteval bool observer_is_sound()
{
    using namespace notify;
    if constexpr (!std::is_class_v<O> || std::is_const_v<O>) {
        static_assert(
            !Explain,
            "nbd: an observer is a class that is not const; the server stores it by value, so a "
            "reference or a pointer is not an observer: use a class that holds one");
        return false;
    } else if constexpr (!std::same_as<O, silent> && !hears_anything<O>) {
        static_assert(
            !Explain,
            "nbd: this observer has none of the at_... members of nbd/concepts/observer.hpp");
        return false;
    } else if constexpr (names_at_connect<O> && !hears_at_connect<O, client>) {
        static_assert(!Explain,
                      "nbd: this observer's at_connect has the wrong shape; expected `void "
                      "at_connect(const nbd::client&)`");
        return false;
    } else if constexpr (names_at_option<O>
                         && !hears_at_option<O, client, protocol::option_header>) {
        static_assert(!Explain,
                      "nbd: this observer's at_option has the wrong shape; expected `void "
                      "at_option(const nbd::client&, const nbd::protocol::option_header&)`");
        return false;
    } else if constexpr (names_at_export_opened<O>
                         && !hears_at_export_opened<O, client, std::string_view,
                                                    protocol::export_terms>) {
        static_assert(!Explain,
                      "nbd: this observer's at_export_opened has the wrong shape; expected `void "
                      "at_export_opened(const nbd::client&, std::string_view name, const "
                      "nbd::protocol::export_terms&)`");
        return false;
    } else if constexpr (names_at_request<O> && !hears_at_request<O, client, protocol::request>) {
        static_assert(!Explain,
                      "nbd: this observer's at_request has the wrong shape; expected `void "
                      "at_request(const nbd::client&, const nbd::protocol::request&)`");
        return false;
    } else if constexpr (names_at_reply<O>
                         && !hears_at_reply<O, client, protocol::request, protocol::error_value>) {
        static_assert(
            !Explain,
            "nbd: this observer's at_reply has the wrong shape; expected `void at_reply(const "
            "nbd::client&, const nbd::protocol::request&, nbd::protocol::error_value)`");
        return false;
    } else if constexpr (names_at_error<O>
                         && !hears_at_error<O, client, std::error_code, std::string_view>) {
        static_assert(
            !Explain,
            "nbd: this observer's at_error has the wrong shape; expected `void at_error(const "
            "nbd::client&, std::error_code cause, std::string_view what)`");
        return false;
    } else if constexpr (names_at_disconnect<O>
                         && !hears_at_disconnect<O, client, std::error_code>) {
        static_assert(!Explain,
                      "nbd: this observer's at_disconnect has the wrong shape; expected `void "
                      "at_disconnect(const nbd::client&, std::error_code why)`");
        return false;
    } else if constexpr (names_at_accept_error<O> && !hears_at_accept_error<O, std::error_code>) {
        static_assert(!Explain,
                      "nbd: this observer's at_accept_error has the wrong shape; expected `void "
                      "at_accept_error(std::error_code)`");
        return false;
    } else {
        return true;
    }
}

}  // namespace diagnosis

}  // namespace nbd
