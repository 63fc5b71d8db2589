// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/names_member.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/protocol/request.hpp>
#include <nbd/vocabulary/printable.hpp>

#include <string_view>
#include <system_error>

namespace nbd {

/// An Observer is told what happens to the clients of a server. It has any number, including zero,
/// of these members; one that is missing, or misspelled, is not called and costs nothing:
///
///     void at_connect(const client&)
///     void at_option(const client&, const protocol::option_header&)
///     void at_export_opened(const client&, std::string_view name, const protocol::export_terms&)
///     void at_request(const client&, const protocol::request&)
///     void at_reply(const client&, const protocol::request&, protocol::error_value)
///     void at_error(const client&, std::error_code cause, std::string_view what)
///     void at_disconnect(const client&, std::error_code why)
///     void at_accept_error(std::error_code)
///
/// `at_error` tells the cause of an error that the wire's few values hide (a backend's failure), or
/// of a refusal in the handshake. `why` is empty after DISC, ABORT or a clean close; see nbd::errc.
/// Names come from clients as they are: escape them before printing (`printable` below).
/// Thread safety: the members are called from the threads of all clients at once. The server has a
/// copy of its own (`server.observer()`), so counters and mutexes live elsewhere, and it points there.
/// Errors: they must not throw. Lifetime: arguments are valid during the call.
struct silent {};

/// Calls `observer.at_X(arguments...)` where it exists. A member of that name that cannot be called
/// so is a compile error, for an observer that silently hears nothing helps nobody.
namespace notify {

#define NBD_NOTIFY(hook)                                                                           \
    NBD_NAMES_MEMBER(hook)                                                                         \
    template <class O, class... Args>                                                              \
    void hook(O& observer, const Args&... args) noexcept                                           \
    {                                                                                              \
        if constexpr (requires { observer.hook(args...); })                                        \
            observer.hook(args...);                                                                \
        else                                                                                       \
            static_assert(!names_##hook<O>(),                                                      \
                          "nbd: this observer's " #hook " has the wrong shape; see "               \
                          "nbd/concepts/observer.hpp for what it is called with");                 \
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

/// Whether there is anything that the observer could be told.
template <class O>
inline constexpr bool hears_anything = names_at_connect<O>() || names_at_option<O>()
    || names_at_export_opened<O>() || names_at_request<O>() || names_at_reply<O>()
    || names_at_error<O>() || names_at_disconnect<O>() || names_at_accept_error<O>();

}  // namespace notify

}  // namespace nbd
