// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/threading_policy.hpp>
#include <nbd/io/asynchronous.hpp>
#include <nbd/io/blocking.hpp>
#include <nbd/session/private_context.hpp>
#include <nbd/session/serve.hpp>

#include <type_traits>

namespace nbd::acceptance {

/// The I/O of a session on the executor, or on the thread, of its policy.
template <class Policy>
using io_of =
    std::conditional_t<Policy::blocking, io::blocking,
                       io::asynchronous<typename Policy::executor_type, promises_polls<Policy>>>;

/// *Returns* the session of a connection, for the policy to run: blocking, asynchronous on the
/// policy's executor, or asynchronous on a context of the client's thread.
/// *Lifetime*: the arguments outlive it.
template <class State, class Policy, class Connection>
[[nodiscard]] auto serve(State& state, Policy& policy, Connection& at)
{
    constexpr bool awaits = asynchronous<typename State::exports_type::opened::backend_type>;
    if constexpr (Policy::blocking && awaits) {
        return session::on_private_context{at.socket, *state.exports,  at.session,
                                           policy,    state.transport, at.peer};
    } else {
        if constexpr (Policy::blocking)
            at.limit_blocking_sends();
        return session::serve<io_of<Policy>>(at.socket, *state.exports, at.session, policy,
                                             state.transport, at.peer);
    }
}

}  // namespace nbd::acceptance
