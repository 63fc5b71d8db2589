// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/misspelled.hpp>
#include <nbd/concepts/names_member.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/protocol/request.hpp>
#include <nbd/vocabulary/failure.hpp>
#include <nbd/vocabulary/printable.hpp>

#include <concepts>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

/// An Observer is notified of the events of a server: a class with any number, including zero, of
/// these members. An event whose member is absent costs nothing. A member
/// of one of these names with other parameters is a compile error, and so are common misspellings
/// (concepts/misspelled.hpp). A member with another name counts as absent.
///
/// | member | called |
/// |---|---|
/// | `at_connect(const client&)` | after a client was accepted, before its handshake |
/// | `at_option(const client&, const protocol::option_header&)` | for each option of the handshake |
/// | `at_export_opened(const client&, std::string_view name, const protocol::export_terms&)` | when a client enters transmission |
/// | `at_option_error(const client&, const protocol::option_header&, const failure&)` | with the cause, before each option is refused whose export does not open or is not authorised, or whose list fails; errc::too_many_exports: LIST is answered, without the exports that settings.exports_listed leaves out |
/// | `at_request(const client&, const protocol::request&)` | when the header of a request has arrived, before it is checked; also for DISC, which has no reply |
/// | `at_reply(const client&, const protocol::request&, protocol::error_value)` | when the whole reply was added to the outbox, before it is sent |
/// | `at_error(const client&, const protocol::request&, const failure&)` | with the backend's failure, before `at_reply` |
/// | `at_disconnect(const client&, std::error_code why)` | when a client has left; no `why` after DISC, ABORT or a clean close |
/// | `at_drain_error(std::string_view name, drain_reason, const failure&)` | when a backend's `drain` has failed, was not made or did not end (operation_canceled: no thread or no memory, or its context was destroyed), or timed out while the server stops; with the export's name |
/// | `at_accept_error(std::error_code)` | when accept(2) failed, or a new connection was refused; or `(std::error_code, std::string_view peer)`, with the text of nbd::client::peer, which is empty if accept(2) failed |
///
/// `at_request` may return an object, a note. `at_reply` gets it as a fourth argument (`Note` or
/// `const Note&`), so that a latency needs no search for the request:
///
///     auto at_request(const client&, const protocol::request&) { return steady_clock::now(); }
///     void at_reply(const client&, const protocol::request&, protocol::error_value,
///                   steady_clock::time_point begun);
///
/// A note is copied with its request, and is dropped without `at_reply` if the client leaves before
/// its reply was made. It can be default-constructed and copied.
///
/// A connection gets at_connect and later at_disconnect, or at_accept_error, each once; none if
/// memory for it runs out, or if it waits for a place when the program's context is destroyed.
///
/// Requests of one client can be replied to in another order. `client.export_name` is set from
/// `at_export_opened` on. Names and texts can come from a client: pass them through nbd::printable
/// before they are shown.
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
    int at_connect, at_option, at_option_error, at_export_opened, at_request, at_reply, at_error,
        at_disconnect, at_drain_error, at_accept_error;
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
NBD_NOTIFY(at_option_error)
NBD_NOTIFY(at_export_opened)
NBD_NOTIFY(at_error)
NBD_NOTIFY(at_disconnect)
NBD_NOTIFY(at_drain_error)
#undef NBD_NOTIFY

NBD_NAMES_MEMBER(every_event, at_accept_error)
template <class O>
concept takes_peer =
    requires(O& observer, const std::error_code& why, const std::string_view& peer) {
        observer.at_accept_error(why, peer);
    };
template <class O>
concept hears_at_accept_error = takes_peer<O>
    || requires(O& observer, const std::error_code& why) { observer.at_accept_error(why); };
/// `peer`: its text, or empty if there is no peer.
template <class O>
void at_accept_error(O& observer, std::error_code why, std::string_view peer = {}) noexcept
{
    if constexpr (takes_peer<O>)
        observer.at_accept_error(why, peer);
    else if constexpr (hears_at_accept_error<O>)
        observer.at_accept_error(why);
}

NBD_NAMES_MEMBER(every_event, at_request)
NBD_NAMES_MEMBER(every_event, at_reply)
template <class O>
concept hears_at_request = requires(O& observer, const client& c, const protocol::request& r) {
    observer.at_request(c, r);
};

/// Of an observer whose at_request returns nothing.
struct no_note {};
template <class O>
struct note {
    using type = no_note;
};
template <class O>
    requires hears_at_request<O>
struct note<O> {
    using result = decltype(std::declval<O&>().at_request(
        std::declval<const client&>(), std::declval<const protocol::request&>()));
    using type = std::conditional_t<std::is_void_v<result>, no_note, std::remove_cvref_t<result>>;
};
/// What the observer's at_request returns.
template <class O>
using note_of = typename note<O>::type;

template <class O>
concept takes_note =
    requires(O& observer, const client& c, const protocol::request& r, protocol::error_value e,
             const note_of<O>& n) { observer.at_reply(c, r, e, n); };
template <class O>
concept hears_at_reply = takes_note<O>
    || requires(O& observer, const client& c, const protocol::request& r, protocol::error_value e) {
           observer.at_reply(c, r, e);
       };

template <class O>
[[nodiscard]] note_of<O> at_request(O& observer, const client& c,
                                    const protocol::request& r) noexcept
{
    if constexpr (!hears_at_request<O>)
        return {};
    else if constexpr (std::is_void_v<typename note<O>::result>)
        return observer.at_request(c, r), no_note{};
    else
        return observer.at_request(c, r);
}
template <class O>
void at_reply(O& observer, const client& c, const protocol::request& r, protocol::error_value e,
              const note_of<O>& n) noexcept
{
    if constexpr (takes_note<O>)
        observer.at_reply(c, r, e, n);
    else if constexpr (hears_at_reply<O>)
        observer.at_reply(c, r, e);
}

/// Whether the observer has a member with the name of an event.
template <class O>
concept hears_anything = names_at_connect<O> || names_at_option<O> || names_at_option_error<O>
    || names_at_export_opened<O> || names_at_request<O> || names_at_reply<O> || names_at_error<O>
    || names_at_disconnect<O> || names_at_drain_error<O> || names_at_accept_error<O>;

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
    } else if constexpr (!std::move_constructible<O>) {
        static_assert(
            !Explain,
            "nbd: an observer must be movable, because the server stores it by value: keep mutexes "
            "and std::atomic outside, in an object that the observer points to");
        return false;
    } else if constexpr (!std::same_as<O, silent> && !hears_anything<O>
                         && !misspells_any_event<O>) {
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
    } else if constexpr (names_at_option_error<O>
                         && !hears_at_option_error<O, client, protocol::option_header, failure>) {
        static_assert(
            !Explain,
            "nbd: this observer's at_option_error has the wrong shape; expected `void "
            "at_option_error(const nbd::client&, const nbd::protocol::option_header&, const "
            "nbd::failure&)`");
        return false;
    } else if constexpr (names_at_export_opened<O>
                         && !hears_at_export_opened<O, client, std::string_view,
                                                    protocol::export_terms>) {
        static_assert(!Explain,
                      "nbd: this observer's at_export_opened has the wrong shape; expected `void "
                      "at_export_opened(const nbd::client&, std::string_view name, const "
                      "nbd::protocol::export_terms&)`");
        return false;
    } else if constexpr (names_at_request<O> && !hears_at_request<O>) {
        static_assert(!Explain,
                      "nbd: this observer's at_request has the wrong shape; expected `void "
                      "at_request(const nbd::client&, const nbd::protocol::request&)`");
        return false;
    } else if constexpr (!std::semiregular<note_of<O>>) {
        static_assert(!Explain,
                      "nbd: what this observer's at_request returns must be a type that can be "
                      "default-constructed and copied: it is kept with the request for at_reply");
        return false;
    } else if constexpr (names_at_reply<O> && !hears_at_reply<O>) {
        static_assert(
            !Explain,
            "nbd: this observer's at_reply has the wrong shape; expected `void at_reply(const "
            "nbd::client&, const nbd::protocol::request&, nbd::protocol::error_value)`, and a "
            "fourth parameter for what at_request returns, if it returns something");
        return false;
    } else if constexpr (names_at_error<O>
                         && !hears_at_error<O, client, protocol::request, failure>) {
        static_assert(
            !Explain,
            "nbd: this observer's at_error has the wrong shape; expected `void at_error(const "
            "nbd::client&, const nbd::protocol::request&, const nbd::failure&)`");
        return false;
    } else if constexpr (names_at_disconnect<O>
                         && !hears_at_disconnect<O, client, std::error_code>) {
        static_assert(!Explain,
                      "nbd: this observer's at_disconnect has the wrong shape; expected `void "
                      "at_disconnect(const nbd::client&, std::error_code why)`");
        return false;
    } else if constexpr (names_at_drain_error<O>
                         && !hears_at_drain_error<O, std::string_view, drain_reason, failure>) {
        static_assert(!Explain,
                      "nbd: this observer's at_drain_error has the wrong shape; expected `void "
                      "at_drain_error(std::string_view name, nbd::drain_reason, const "
                      "nbd::failure&)`");
        return false;
    } else if constexpr (names_at_accept_error<O> && !hears_at_accept_error<O>) {
        static_assert(!Explain,
                      "nbd: this observer's at_accept_error has the wrong shape; expected `void "
                      "at_accept_error(std::error_code)`, and a second parameter "
                      "`std::string_view peer` if it wants one");
        return false;
    } else if constexpr (misspells_at_connect<O>) {
        static_assert(!Explain,
                      "nbd: this observer has a member with a name similar to `at_connect`; "
                      "correct or change it");
        return false;
    } else if constexpr (misspells_at_option<O>) {
        static_assert(!Explain,
                      "nbd: this observer has a member with a name similar to `at_option`; correct "
                      "or change it");
        return false;
    } else if constexpr (misspells_at_option_error<O>) {
        static_assert(!Explain,
                      "nbd: this observer has a member with a name similar to `at_option_error`; "
                      "correct or change it");
        return false;
    } else if constexpr (misspells_at_export_opened<O>) {
        static_assert(!Explain,
                      "nbd: this observer has a member with a name similar to `at_export_opened`; "
                      "correct or change it");
        return false;
    } else if constexpr (misspells_at_request<O>) {
        static_assert(!Explain,
                      "nbd: this observer has a member with a name similar to `at_request`; "
                      "correct or change it");
        return false;
    } else if constexpr (misspells_at_reply<O>) {
        static_assert(!Explain,
                      "nbd: this observer has a member with a name similar to `at_reply`; correct "
                      "or change it");
        return false;
    } else if constexpr (misspells_at_error<O>) {
        static_assert(!Explain,
                      "nbd: this observer has a member with a name similar to `at_error`; correct "
                      "or change it");
        return false;
    } else if constexpr (misspells_at_disconnect<O>) {
        static_assert(!Explain,
                      "nbd: this observer has a member with a name similar to `at_disconnect`; "
                      "correct or change it");
        return false;
    } else if constexpr (misspells_at_drain_error<O>) {
        static_assert(!Explain,
                      "nbd: this observer has a member with a name similar to `at_drain_error`; "
                      "correct or change it");
        return false;
    } else if constexpr (misspells_at_accept_error<O>) {
        static_assert(!Explain,
                      "nbd: this observer has a member with a name similar to `at_accept_error`; "
                      "correct or change it");
        return false;
    } else {
        return true;
    }
}

}  // namespace diagnosis

}  // namespace nbd
