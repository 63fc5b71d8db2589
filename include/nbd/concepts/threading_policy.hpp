// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/offloaded_call.hpp>

#include <concepts>

namespace nbd {

/// A ThreadingPolicy says where a client lives: on which thread, and in which kind of I/O.
///
///     using executor_type              the concrete executor of the clients' sockets
///     static constexpr bool blocking   true: an operation blocks its thread; false: it is awaited
///     void start()                     makes what it needs; may throw std::system_error
///     executor_type next_executor()    where the next client's socket is to live
///     void launch(executor, make_task, done)
///                                      runs the task that `make_task()` returns to its end, then
///                                      calls `done()` once, in every case; must not throw. A
///                                      blocking task has `get()`, the other is
///                                      boost::asio::awaitable<void, executor_type>.
///     bool runs_here()                 whether the calling thread is one of its own
///     void offload(offloaded_calls& client, offloaded_call&)
///                                      optional, where blocking is false: runs it on a thread that may
///                                      wait, at most so many at a time; may throw std::system_error
///                                      where it can have no thread at all. From any thread
///     void join()                      waits for all that was launched, then ends its threads
///
/// Thread safety: next_executor and launch are called from one thread at a time, join once and after
/// the last launch, runs_here from anywhere.
template <class P>
concept threading_policy = requires(P& p) {
    typename P::executor_type;
    { P::blocking } -> std::convertible_to<bool>;
    p.start();
    { p.next_executor() } -> std::same_as<typename P::executor_type>;
    { p.runs_here() } -> std::same_as<bool>;
    p.join();
};

/// A policy on which backends that block (their promise `blocks`) do not hold up other requests.
template <class P>
concept offloads = !P::blocking
    && requires(P& p, offloaded_calls& client, offloaded_call& c) { p.offload(client, c); };

}  // namespace nbd
