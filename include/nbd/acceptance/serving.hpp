// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/threading_policy.hpp>
#include <nbd/io/asynchronous.hpp>
#include <nbd/io/blocking.hpp>
#include <nbd/session/private_context.hpp>
#include <nbd/session/serve.hpp>

#include <type_traits>

namespace nbd::acceptance {

/// *Returns* the session of a connection, for the policy to run: blocking, asynchronous on the
/// policy's executor, or asynchronous on a context of the client's thread.
/// *Lifetime*: the arguments outlive it.
template <class State, class Policy, class Connection>
[[nodiscard]] auto serve(State& state, Policy& policy, Connection& at)
{
    constexpr bool awaits = asynchronous<typename State::exports_type::opened::backend_type>;
    if constexpr (!Policy::blocking) {
        using io_type = io::asynchronous<typename Policy::executor_type, promises_polls<Policy>>;
        return session::serve<io_type>(at.socket, *state.exports, at.session, policy,
                                       state.transport, at.peer);
    } else if constexpr (awaits) {
        return session::on_private_context{at.socket, *state.exports,  at.session,
                                           policy,    state.transport, at.peer};
    } else {
        at.limit_blocking_sends();
        return session::serve<io::blocking>(at.socket, *state.exports, at.session, policy,
                                            state.transport, at.peer);
    }
}

}  // namespace nbd::acceptance
