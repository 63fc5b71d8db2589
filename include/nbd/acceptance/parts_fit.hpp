// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/diagnosis.hpp>
#include <nbd/concepts/observer.hpp>
#include <nbd/concepts/threading_policy.hpp>
#include <nbd/concepts/transport.hpp>

#include <concepts>
#include <type_traits>
#include <utility>

/// Whether a server can be composed of some parts, and compile errors of one sentence for parts
/// that do not fit.
namespace nbd::acceptance {

template <class T>
concept resembles_backend = has_size<T> || has_open<T>;
template <class T>
concept resembles_transport = transport_has::where<T> || transport_has::close<T>;
template <class T>
concept resembles_policy = policy_has::runs_here<T> || policy_has::join<T>;

/// Whether each template argument of a server may be what its place requires.
template <class Transport, class Backend, class Policy, class Observer, bool Explain = false>
consteval bool roles_fit()
{
    if constexpr ((!transport<Transport>
                   && (resembles_backend<Transport> || resembles_policy<Transport>))
                  || (!resembles_backend<Backend>
                      && (resembles_transport<Backend> || resembles_policy<Backend>))
                  || (!threading_policy<Policy>
                      && (resembles_backend<Policy> || resembles_transport<Policy>
                          || notify::hears_anything<Policy>))) {
        static_assert(!Explain,
                      "nbd: the template arguments of a server are in the wrong order; it is "
                      "nbd::server<Transport, Backend, ThreadingPolicy, Observer>");
        return false;
    } else if constexpr (!std::is_class_v<Transport> || std::is_const_v<Transport>
                         || !std::is_class_v<Policy> || std::is_const_v<Policy>) {
        static_assert(!Explain,
                      "nbd: a transport and a threading policy are classes that are not const, not "
                      "references or pointers; the server stores them by value");
        return false;
    } else {
        return true;
    }
}

/// Whether an awaited backend can run on the executor of a policy's clients.
template <class B, class Executor>
consteval bool runs_on()
{
    if constexpr (!asynchronous<B> || calls_back<B>)
        return true;
    else if constexpr (requires { typename diagnosis::read_of<B>::executor_type; })
        return std::convertible_to<Executor, typename diagnosis::read_of<B>::executor_type>;
    else
        return std::convertible_to<Executor, typename diagnosis::handle_of<B>::executor_type>;
}

/// As runs_on, for everything that is awaited: the members, `open`, `resize` and `drain`.
template <class B, class Executor>
consteval bool all_runs_on()
{
    bool fits = runs_on<served_t<B>, Executor>();
    if constexpr (awaits_open<B>)
        fits &= std::convertible_to<Executor, typename open_result<B>::executor_type>;
    if constexpr (awaits_resize<served_t<B>>)
        fits &= std::convertible_to<
            Executor, typename decltype(std::declval<served_t<B>&>().resize(0))::executor_type>;
    if constexpr (awaits_drain<B>)
        fits &= std::convertible_to<
            Executor, typename decltype(std::declval<B&>().drain(drain_reason{}))::executor_type>;
    return fits;
}

/// Whether `open` can be awaited with a policy. With a policy whose clients block, only if the
/// other members are asynchronous, because only then a client's thread has a context to run.
template <class B, class Policy>
consteval bool can_await_open()
{
    return !awaits_open<B> || !Policy::blocking || asynchronous<served_t<B>>;
}

/// Whether a policy can serve a backend.
template <class Backend, class Policy, bool Explain = false>
consteval bool backend_suits_policy()
{
    if constexpr (!threading_policy<Policy> || !diagnosis::backend_is_sound<Backend>()) {
        return false;
    } else if constexpr (!all_runs_on<Backend, typename Policy::executor_type>()) {
        static_assert(!Explain,
                      "nbd: this backend's awaitable is of an executor that the policy's clients "
                      "do not have; use `boost::asio::awaitable<T, Policy::executor_type>`, or "
                      "`boost::asio::awaitable<T>`, which runs anywhere");
        return false;
    } else if constexpr (!can_await_open<Backend, Policy>()) {
        static_assert(!Explain,
                      "nbd: this backend's open is awaited and its other members are not, which a "
                      "policy with a blocking thread for each client cannot serve; use strand_pool "
                      "or on_executor, or members that are awaited");
        return false;
    } else {
        return true;
    }
}

/// What is checked, in this order.
enum class part { roles, transport, policy, observer, backend, backend_with_policy, none };

/// *Returns* the first part that does not fit.
template <class Transport, class Backend, class Policy, class Observer>
consteval part first_unfit()
{
    if constexpr (!roles_fit<Transport, Backend, Policy, Observer>())
        return part::roles;
    else if constexpr (!diagnosis::transport_is_sound<Transport>())
        return part::transport;
    else if constexpr (!diagnosis::policy_is_sound<Policy>())
        return part::policy;
    else if constexpr (!diagnosis::observer_is_sound<Observer>())
        return part::observer;
    else if constexpr (!diagnosis::backend_is_sound<Backend>())
        return part::backend;
    else if constexpr (!backend_suits_policy<Backend, Policy>())
        return part::backend_with_policy;
    else
        return part::none;
}

/// Whether a server can be composed of these parts.
template <class Transport, class Backend, class Policy, class Observer>
concept parts_fit = first_unfit<Transport, Backend, Policy, Observer>() == part::none;

}  // namespace nbd::acceptance
