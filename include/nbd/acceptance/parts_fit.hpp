// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/diagnosis.hpp>
#include <nbd/concepts/observer.hpp>
#include <nbd/concepts/threading_policy.hpp>
#include <nbd/concepts/transport.hpp>

#include <concepts>
#include <string>
#include <string_view>

namespace nbd::acceptance {

/// True where a server can be composed of these parts; otherwise compile errors that say why not.
template <class Transport, class Backend, class Policy, class Observer>
consteval bool parts_fit()
{
    static_assert(std::same_as<Observer, silent> || notify::hears_anything<Observer>,
                  "nbd: this observer has none of the at_... members of nbd/concepts/observer.hpp");
    bool fit = diagnosis::transport_is_sound<Transport>();
    fit &= diagnosis::policy_is_sound<Policy>();
    if constexpr (threading_policy<Policy>) {
        constexpr bool runs = diagnosis::all_runs_on<Backend, typename Policy::executor_type>();
        static_assert(
            runs,
            "nbd: this backend's awaitable is of an executor that the policy's clients do not "
            "have; use `boost::asio::awaitable<T, Policy::executor_type>`, or "
            "`boost::asio::awaitable<T>`, which runs anywhere");
        constexpr bool opens = diagnosis::can_await_open<Backend, Policy>();
        static_assert(
            opens,
            "nbd: this backend's open is awaited and its other members are not, which a policy "
            "with a blocking thread for each client cannot serve; use strand_pool or "
            "on_executor, or members that are awaited");
        fit &= runs && opens;
        if constexpr (runs && opens)
            fit &= diagnosis::backend_is_sound<Backend>();
    }
    return fit;
}

/// A server whose parts do not fit. It has members, so that the compiler prints nothing but the
/// reason.
template <class Transport>
class unfit_server {
    struct no_exports {
        template <class... Args>
        void add(const Args&...)
        {
        }
        template <class... Args>
        void emplace(const Args&...)
        {
        }
    };
    struct no_settings {};
    template <class T>
    struct settings_of {
        using type = no_settings;
    };
    template <class T>
        requires requires { typename T::settings; }
    struct settings_of<T> {
        using type = typename T::settings;
    };

public:
    template <class... Args>
    explicit unfit_server(const typename settings_of<Transport>::type&, const Args&...)
    {
    }
    no_exports exports() { return {}; }
    std::string uri(std::string_view) const { return {}; }
    void start() {}
    void stop() {}
    void wait() {}
    void run() {}
};

}  // namespace nbd::acceptance
