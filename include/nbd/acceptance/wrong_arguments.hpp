// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/settings.hpp>

#include <boost/asio/async_result.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/system/error_code.hpp>

#include <concepts>
#include <type_traits>

namespace nbd::acceptance {

/// What a policy can be made of: an executor of its type, or a context that has such executors.
template <class Where, class Policy>
concept where_it_runs = std::constructible_from<Policy, Where>
    && (std::same_as<std::remove_cvref_t<Where>, typename Policy::executor_type>
        || std::convertible_to<Where, boost::asio::execution_context&>);

/// Whether these may follow nbd::settings among the arguments of a server.
template <class Policy, class Observer, class First = Policy, class Second = Observer,
          class... More>
inline constexpr bool follow_settings = std::convertible_to<First, Policy>
    && std::convertible_to<Second, Observer> && sizeof...(More) == 0;
/// Whether these may follow the settings of the transport.
template <class Policy, class Observer, class First = settings, class... Rest>
inline constexpr bool follow_listen =
    std::convertible_to<First, settings> && follow_settings<Policy, Observer, Rest...>;

/// Whether these are the arguments of `async_run` and `async_stop`.
template <class... Args>
inline constexpr bool fit_token = false;
template <class Token>
inline constexpr bool fit_token<Token> =
    boost::asio::completion_token_for<Token, void(boost::system::error_code)>;

/// Constructors and operations of a server for arguments that do not fit: each is a compile error
/// of one sentence. Without them, the compiler would list all constructors and why each does not
/// fit. Arguments in braces have no type: they reach a deleted constructor of the server instead.
template <class Options>
class wrong_arguments;
template <template <class, class, class, class> class OptionsOf, class Transport, class Backend,
          class Policy, class Observer>
class wrong_arguments<OptionsOf<Transport, Backend, Policy, Observer>> {
    using Options = OptionsOf<Transport, Backend, Policy, Observer>;
    using listen_type = typename Transport::settings;

    template <class T>
    static constexpr bool begins =
        std::convertible_to<T, listen_type> || std::convertible_to<T, Options>;
    template <class T>
    static constexpr bool is_executor = where_it_runs<T&, Policy>;

protected:
    wrong_arguments() = default;

public:
    template <class First, class... Rest>
        requires(!begins<First> && !is_executor<First>)
    explicit wrong_arguments(const First&, const Rest&...)
    {
        static_assert(
            begins<First>,
            "nbd: the first argument of a server is the settings of its transport, such "
            "as {.path = \"/tmp/disk.sock\"}; or options: {.listen = ..., .settings = ...}");
    }
    template <class First, class... Rest>
        requires(!follow_listen<Policy, Observer, First, Rest...>)
    wrong_arguments(listen_type, const First&, const Rest&...)
    {
        static_assert(follow_listen<Policy, Observer, First, Rest...>,
                      "nbd: the arguments of a server are, in this order, the settings of its "
                      "transport, nbd::settings, the threading policy and the observer; options "
                      "have names: {.listen = ..., .policy = ..., .observer = ...}");
    }
    template <class First, class... Rest>
        requires(!follow_settings<Policy, Observer, First, Rest...>)
    wrong_arguments(listen_type, settings, const First&, const Rest&...)
    {
        static_assert(follow_settings<Policy, Observer, First, Rest...>,
                      "nbd: the arguments of a server are, in this order, the settings of its "
                      "transport, nbd::settings, the threading policy and the observer; options "
                      "have names: {.listen = ..., .policy = ..., .observer = ...}");
    }
    template <class Executor, class... Rest>
        requires(!begins<Executor> && !is_executor<Executor>)
    wrong_arguments(const Executor&, listen_type, const Rest&...)
    {
        static_assert(is_executor<Executor>,
                      "nbd: a server takes an executor as its first argument only with the policy "
                      "nbd::on_executor<Executor> for this type of executor, or for that of "
                      "the context");
    }
    template <class Unused = void>
    wrong_arguments(settings, listen_type)
    {
        static_assert(!std::is_void_v<Unused>,
                      "nbd: the settings of the transport come first, then nbd::settings");
    }

    template <class... Args>
        requires(!fit_token<Args...>)
    void async_run(Args&&...)
    {
        static_assert(fit_token<Args...>,
                      "nbd: the argument of async_run is a completion token, such as a function "
                      "that takes a boost::system::error_code");
    }
    template <class... Args>
        requires(!fit_token<Args...>)
    void async_stop(Args&&...)
    {
        static_assert(fit_token<Args...>,
                      "nbd: the argument of async_stop is a completion token, such as a function "
                      "that takes a boost::system::error_code");
    }
};

}  // namespace nbd::acceptance
