// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/offloaded_call.hpp>

#include <concepts>
#include <type_traits>
#include <utility>

namespace nbd {

/// The requirements of `threading_policy`, one by one.
namespace policy_has {

template <class P>
concept executor_type = requires { typename P::executor_type; };
template <class P>
concept blocking = requires { typename std::bool_constant<bool(P::blocking)>; };
template <class P>
concept start = requires(P& p) { p.start(); };
template <class P>
concept next_executor = requires(P& p) {
    { p.next_executor() } -> std::same_as<typename P::executor_type>;
};
/// A session that a policy must accept: it can be moved and not copied.
struct any_session {
    any_session(any_session&&) noexcept;
    any_session& operator=(any_session&&) = delete;
    ~any_session();
};
template <class P>
concept launch = requires(P& p, const typename P::executor_type& at, any_session s) {
    { p.launch(at, std::move(s)) } noexcept;
};
template <class P>
concept part_of_inner_executor =
    requires { typename P::inner_executor_type; } || requires(const P& p) { p.inner_executor(); };
template <class P>
concept runs_here = requires(P& p) {
    { p.runs_here() } -> std::same_as<bool>;
};
template <class P>
concept join = requires(P& p) { p.join(); };
/// A policy for an executor of the program has all of these members; any other policy has none.
template <class P>
concept inner_executor = !part_of_inner_executor<P> || requires(const P& p) {
    { p.inner_executor() } -> std::same_as<typename P::inner_executor_type>;
    { p.get_executor() } -> std::convertible_to<typename P::executor_type>;
};

}  // namespace policy_has

/// A ThreadingPolicy decides which thread serves a client, and whether its I/O blocks or is
/// asynchronous.
///
///     using executor_type              the concrete executor of the clients' sockets
///     static constexpr bool blocking   true: an operation blocks its thread; false: it is awaited
///     void start()                     creates threads and contexts; may throw std::system_error
///     executor_type next_executor()    the executor of the next client's socket
///     void launch(executor, session)   noexcept. Runs the task that `session()` returns to its
///                                      end, then destroys `session`; destroys it even if the task
///                                      cannot be started. `session` can be moved, not copied. A
///                                      blocking task has `get()`, and `run_leftovers()` for
///                                      an awaited backend (session/private_context.hpp); an
///                                      asynchronous one is a
///                                      boost::asio::awaitable<void, executor_type>
///     bool runs_here()                 whether the calling thread belongs to the policy
///     void offload(offloaded_calls& client, offloaded_call&)
///                                      optional, if `blocking` is false: runs a call on a thread
///                                      that may block; the number of such threads is limited. May
///                                      throw std::system_error if no thread can be created
///     static constexpr bool polls      optional: the executor is that of an io_context which one
///                                      thread of the policy runs, so that its event loop may
///                                      poll; see settings.busy_poll
///     void join()                      waits for all launched sessions, then ends the threads
///
/// A policy that serves on an executor of the program also has:
///
///     using inner_executor_type
///     inner_executor_type inner_executor() const   the executor without a strand
///     executor_type get_executor() const           the executor of the program
///
/// *Thread safety*: next_executor and launch: one thread at a time. join: once, after the last
/// launch. runs_here and offload: any thread. The destructor of `session` may run on any thread.
template <class P>
concept threading_policy =
    std::move_constructible<P> && policy_has::executor_type<P> && policy_has::blocking<P>
    && policy_has::start<P> && policy_has::next_executor<P> && policy_has::launch<P>
    && policy_has::runs_here<P> && policy_has::join<P> && policy_has::inner_executor<P>;

/// A policy whose event loops may poll for a short time before they sleep.
template <class P>
concept promises_polls = requires { requires P::polls; };

/// A policy with threads for backends that block (the promise `blocks`), so that other requests
/// proceed.
template <class P>
concept offloads = !P::blocking
    && requires(P& p, offloaded_calls& client, offloaded_call& c) { p.offload(client, c); };

namespace diagnosis {

/// Whether the class has all members. The first that is missing becomes a compile error of one
/// sentence if `Explain` is true.
template <class P, bool Explain = false>
consteval bool policy_is_sound()
{
    namespace has = policy_has;
    if constexpr (!std::move_constructible<P>) {
        static_assert(!Explain, "nbd: a threading policy needs a move constructor");
        return false;
    } else if constexpr (!has::executor_type<P>) {
        static_assert(!Explain,
                      "nbd: a threading policy needs `using executor_type`, the executor of the "
                      "clients' sockets");
        return false;
    } else if constexpr (!has::blocking<P>) {
        static_assert(!Explain, "nbd: a threading policy needs `static constexpr bool blocking`");
        return false;
    } else if constexpr (!has::start<P>) {
        static_assert(!Explain, "nbd: a threading policy needs `void start()`");
        return false;
    } else if constexpr (!has::next_executor<P>) {
        static_assert(!Explain, "nbd: a threading policy needs `executor_type next_executor()`");
        return false;
    } else if constexpr (!has::launch<P>) {
        static_assert(!Explain,
                      "nbd: a threading policy needs `template <class Session> void launch(const "
                      "executor_type&, Session session) noexcept`; a session is moved, not copied");
        return false;
    } else if constexpr (!has::runs_here<P>) {
        static_assert(!Explain, "nbd: a threading policy needs `bool runs_here()`");
        return false;
    } else if constexpr (!has::join<P>) {
        static_assert(!Explain, "nbd: a threading policy needs `void join()`");
        return false;
    } else if constexpr (!has::inner_executor<P>) {
        static_assert(!Explain,
                      "nbd: a threading policy for an executor of the program needs `using "
                      "inner_executor_type`, `inner_executor_type inner_executor() const` and "
                      "`executor_type get_executor() const`");
        return false;
    } else {
        return true;
    }
}

}  // namespace diagnosis

}  // namespace nbd
