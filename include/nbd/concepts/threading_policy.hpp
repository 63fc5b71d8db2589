// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/offloaded_call.hpp>

#include <concepts>

namespace nbd {

/// A ThreadingPolicy decides which thread serves a client, and whether its I/O blocks or is asynchronous.
///
///     using executor_type              the concrete executor of the clients' sockets
///     static constexpr bool blocking   true: an operation blocks its thread; false: it is awaited
///     void start()                     creates threads and contexts; may throw std::system_error
///     executor_type next_executor()    the executor of the next client's socket
///     void launch(executor, session)   noexcept. Runs the task that `session()` returns to its end, then
///                                      destroys `session`; destroys it in every case, also where the
///                                      task cannot be started. `session` can be moved, not copied. A
///                                      blocking task has `get()`; an asynchronous one is a
///                                      boost::asio::awaitable<void, executor_type>
///     bool runs_here()                 whether the calling thread belongs to the policy
///     void offload(offloaded_calls& client, offloaded_call&)
///                                      optional, where blocking is false: runs a call on a thread that may
///                                      block; the number of such threads is limited. May throw
///                                      std::system_error where no thread can be created. Any thread
///     static constexpr bool polls      optional: the executor is that of an io_context which one thread of the
///                                      policy runs, so that its event loop may poll; see settings.busy_poll
///     void join()                      waits for all launched sessions, then ends the threads
///
/// *Thread safety*: next_executor and launch: one thread at a time. join: once, after the last launch.
/// runs_here: any thread. The destructor of `session` may run on any thread.
template <class P>
concept threading_policy = requires(P& p) {
    typename P::executor_type;
    { P::blocking } -> std::convertible_to<bool>;
    p.start();
    { p.next_executor() } -> std::same_as<typename P::executor_type>;
    { p.runs_here() } -> std::same_as<bool>;
    p.join();
};

/// A policy whose event loops may poll for a short time before they sleep.
template <class P>
concept promises_polls = requires { requires P::polls; };

/// A policy with threads for backends that block (the promise `blocks`), so that other requests proceed.
template <class P>
concept offloads = !P::blocking
    && requires(P& p, offloaded_calls& client, offloaded_call& c) { p.offload(client, c); };

}  // namespace nbd
