// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/parts_fit.hpp>
#include <nbd/concepts/diagnosis.hpp>
#include <nbd/exports/unfit_exports.hpp>
#include <nbd/settings.hpp>
#include <nbd/vocabulary/established.hpp>

#include <concepts>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace nbd::acceptance {

/// A server whose parts do not fit. It has the members of a server, so that the compiler prints
/// nothing but the reason.
template <class Transport, class Backend, class Observer>
class unfit_server {
    using any = exports::anything;
    /// Has the members of the transports' settings.
    struct any_listen {
        any path{}, address{}, port{}, backlog{}, mode{}, stale{}, no_delay{}, user_timeout{};
    };
    template <class T>
    struct settings_of {
        using type = any_listen;
    };
    template <class T>
        requires requires { typename T::settings; }
    struct settings_of<T> {
        using type = typename T::settings;
    };

public:
    using listen_type = typename settings_of<Transport>::type;
    struct options {
        listen_type listen{};
        any exports{};
        nbd::settings settings{};
        any policy{}, observer{}, admit{}, authorise{};
    };

    unfit_server() = default;
    template <class = void>
    unfit_server(...) = delete;  // nbd: a wrong member in braces
    explicit unfit_server(options) {}
    template <class... Args>
    explicit unfit_server(listen_type, const Args&...)
    {
    }
    template <class... Args>
    unfit_server(listen_type, nbd::settings, const Args&...)
    {
    }
    template <class Executor, class... Args>
        requires(!std::convertible_to<Executor, listen_type>)
    unfit_server(const Executor&, listen_type, const Args&...)
    {
    }
    template <class Executor, class... Args>
        requires(!std::convertible_to<Executor, listen_type>)
    unfit_server(const Executor&, listen_type, nbd::settings, const Args&...)
    {
    }

    exports::unfit_exports<Backend>& exports() { return exports_; }
    any observer() { return {}; }
    any local_endpoint() const { return {}; }
    std::vector<any> local_endpoints() const { return {}; }
    any get_executor() const { return {}; }
    any connections() const { return {}; }
    std::string uri(std::string_view) const { return {}; }
    std::vector<std::string> uris(std::string_view) const { return {}; }
    bool disconnect(std::uint64_t) { return false; }
    void start() {}
    void start(std::error_code&) {}
    template <class... Args>
    void start_on(Args&&...)
    {
    }
    template <class... Args>
    void start_without_listening(Args&&...)
    {
    }
    template <class... Args>
    void adopt(Args&&...)
    {
    }
    void adopt(int, const established&) {}
    void adopt(int, const established&, std::error_code&) {}
    void stop() {}
    void wait() {}
    void run() {}
    template <class Token>
    any async_run(Token&&)
    {
        return {};
    }
    template <class Token>
    any async_stop(Token&&)
    {
        return {};
    }

private:
    exports::unfit_exports<Backend> exports_;
};

}  // namespace nbd::acceptance

namespace nbd {

class per_client_threads;

/// Parts that do not fit together select this primary template. A compile error states the first
/// reason.
template <class Transport, class Backend, class ThreadingPolicy = per_client_threads,
          class Observer = silent>
class server : public acceptance::unfit_server<Transport, Backend, Observer> {
    static constexpr auto unfit =
        acceptance::first_unfit<Transport, Backend, ThreadingPolicy, Observer>();
    static constexpr auto rule = unfit == acceptance::part::backend
        ? diagnosis::first_broken<Backend>()
        : diagnosis::rules::none;
    using rules = diagnosis::rules;
    using served = served_t<Backend>;
    // The functions are called here, not by each other, and each on one line: both keep the
    // compiler's output short.
    using reasons = std::integer_sequence<
        bool,
        acceptance::roles_fit<Transport, Backend, ThreadingPolicy, Observer,
                              unfit == acceptance::part::roles>(),
        diagnosis::transport_is_sound<Transport, unfit == acceptance::part::transport>(),
        diagnosis::policy_is_sound<ThreadingPolicy, unfit == acceptance::part::policy>(),
        diagnosis::observer_is_sound<Observer, unfit == acceptance::part::observer>(),
        diagnosis::class_is_sound<Backend, rule == rules::of_class>(),
        diagnosis::shapes_are_sound<served, rule == rules::of_shapes>(),
        diagnosis::callback_shapes_are_sound<served, rule == rules::of_callback_shapes>(),
        diagnosis::promises_are_sound<served, rule == rules::of_promises>(),
        diagnosis::kinds_are_sound<served, rule == rules::of_kinds>(),
        diagnosis::bases_are_sound<served, rule == rules::of_bases>(),
        diagnosis::open_is_sound<Backend, rule == rules::of_open>(),
        diagnosis::spelling_is_sound<served, rule == rules::of_spelling>(),
        acceptance::backend_suits_policy<Backend, ThreadingPolicy,
                                         unfit == acceptance::part::backend_with_policy>()>;

public:
    using acceptance::unfit_server<Transport, Backend, Observer>::unfit_server;
};

}  // namespace nbd
