// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/listener.hpp>
#include <nbd/acceptance/server_state.hpp>
#include <nbd/concepts/diagnosis.hpp>
#include <nbd/concepts/observer.hpp>
#include <nbd/concepts/threading_policy.hpp>
#include <nbd/concepts/transport.hpp>
#include <nbd/error.hpp>
#include <nbd/exports/export_set.hpp>
#include <nbd/settings.hpp>

#include <concepts>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

namespace nbd {

class per_client_threads;

/// An NBD server, composed at compile time:
///
///     nbd::server<nbd::unix_transport, nbd::mem_backend, nbd::per_client_threads> server{
///         {.path = "/tmp/disk.sock"}};
///     server.exports().add("disk", nbd::mem_backend{size});
///     server.run();
///
/// `<nbd/server.hpp>` includes it with the transports, policies and the memory backend; programs that
/// include `<nbd/basic_server.hpp>` include the parts that they use. A server runs once. It handles no
/// signals: the program calls stop(). Exports may be added and removed at any time.
///
/// *Thread safety*: exports(), stop() and wait() from any thread, also from a backend or an observer. start()
/// and the destructor: one thread.
template <class Transport, class Backend, class ThreadingPolicy = per_client_threads,
          class Observer = silent>
class server {
    static_assert(
        nbd::transport<Transport>,
        "nbd: the first argument of server is a transport; see nbd/concepts/transport.hpp");
    static_assert(threading_policy<ThreadingPolicy>,
                  "nbd: the third argument of server is a threading policy; see "
                  "nbd/concepts/threading_policy.hpp");
    static_assert(std::same_as<Observer, silent> || notify::hears_anything<Observer>,
                  "nbd: this observer has none of the at_... members of nbd/concepts/observer.hpp");
    static constexpr bool fits =
        diagnosis::all_runs_on<Backend, typename ThreadingPolicy::executor_type>();
    static_assert(
        fits,
        "nbd: this backend's awaitable is of an executor that the policy's clients do not "
        "have; use `boost::asio::awaitable<T, Policy::executor_type>`, or "
        "`boost::asio::awaitable<T>`, which runs anywhere");
    static constexpr bool opens = diagnosis::can_await_open<Backend, ThreadingPolicy>();
    static_assert(
        opens,
        "nbd: this backend's open is awaited and its other members are not, which a policy "
        "with a blocking thread for each client cannot serve; use strand_pool or "
        "on_executor, or members that are awaited");
    static constexpr bool sound = fits && opens && diagnosis::backend_is_sound<Backend>();
    static constexpr bool hosted = acceptance::hosted<ThreadingPolicy>;

public:
    using export_set_type = export_set<Backend>;
    using endpoint_type = typename Transport::protocol_type::endpoint;

    /// Whether calls of the backend take a lock, because it promises no more than serialize_all.
    static constexpr bool locks_backend = export_set_type::locks;

    /// *Errors*: std::system_error where the system has no more descriptors.
    explicit server(typename Transport::settings listen_at, settings limits = {},
                    ThreadingPolicy policy = ThreadingPolicy{}, Observer observer = {})
        : server{std::make_shared<export_set_type>(), std::move(listen_at), std::move(limits),
                 std::move(policy), std::move(observer)}
    {
    }
    /// With exports that another server, on another transport for example, serves as well.
    server(std::shared_ptr<export_set_type> shared, typename Transport::settings listen_at,
           settings limits = {}, ThreadingPolicy policy = {}, Observer observer = {})
        : state_{std::make_shared<state_type>(std::move(shared), std::move(limits),
                                              std::move(observer), Transport{std::move(listen_at)},
                                              policy)},
          unstarted_{std::make_shared<listener_type>(state_, std::move(policy))},
          listener_{unstarted_}
    {
    }
    /// On an executor of the program, with the policy nbd::on_executor.
    template <class Executor>
        requires(std::constructible_from<ThreadingPolicy, Executor>
                 && std::same_as<Executor, typename ThreadingPolicy::executor_type>)
    server(Executor executor, typename Transport::settings listen_at, settings limits = {},
           Observer observer = {})
        : server{std::move(listen_at), std::move(limits), ThreadingPolicy{std::move(executor)},
                 std::move(observer)}
    {
    }
    server(const server&) = delete;
    server& operator=(const server&) = delete;

    /// Stops the server. With threads of its own, it also waits until every client is disconnected and all
    /// threads have ended; on one of these threads it does not wait. On an executor of the program
    /// (on_executor) it never waits: connections end as the context runs, or with the context's destruction.
    /// What sessions use is kept alive for them, the observer included.
    ~server()
    {
        begin_stop();
        if constexpr (!hosted) {
            if (runs_here())
                state_->control.detach();
            else
                wait();
        }
    }

    [[nodiscard]] export_set_type& exports() noexcept { return *state_->exports; }
    [[nodiscard]] Observer& observer() noexcept { return state_->observer; }

    /// Listens, starts to serve, and returns: on threads of the policy, or on the program's executor.
    /// *Errors*: the transport's (address in use, path too long, permission denied ...), the system's where
    /// it has no more threads or descriptors, errc::already_started. Nothing is started then.
    void start(std::error_code& error)
    {
        if (!unstarted_) {
            error = errc::already_started;
            return;
        }
        error = unstarted_->start();
        if (!error)
            unstarted_.reset();  // its handlers or its thread hold it from now on
    }
    /// As above; throws std::system_error.
    void start()
    {
        std::error_code failed;
        start(failed);
        if (failed)
            throw std::system_error{failed, "nbd: cannot listen on " + state_->transport.where()};
    }

    /// Returns when the server has stopped, every client is disconnected, and, on an executor of the program,
    /// no handler of the server is left. Returns at once if the server was not started, and on the server's
    /// own threads. It never runs a handler: on an executor of the program, another thread must run the
    /// context, or destroy it, and the caller must not be that thread (seen, and not waited for, except with
    /// any_io_executor).
    void wait()
    {
        if (!state_->running || runs_here())
            return;
        state_->ended.wait(false);
        if constexpr (!hosted)
            state_->control.join();
    }

    /// Stops the server: it accepts no more clients, finishes and answers the requests that were begun,
    /// answers ESHUTDOWN to those that were only received, and to zeroes that had to be written and are not
    /// yet, and closes every connection. After settings.stop_grace the remaining connections are cut, and what
    /// their sessions await is cancelled; a call of a backend that blocks is waited for.
    ///
    /// With threads of its own, the server waits as wait() does. On an executor of the program, stop() only
    /// begins to stop and returns.
    void stop()
    {
        begin_stop();
        if constexpr (!hosted)
            wait();
    }

    /// start() and wait().
    void run()
    {
        start();
        wait();
    }

    /// The address that the server listens on; valid after start(), which chooses a free port for port 0.
    [[nodiscard]] const endpoint_type& local_endpoint() const noexcept { return state_->endpoint; }

    /// The NBD URI of an export, for clients. Valid after start().
    [[nodiscard]] std::string uri(std::string_view export_name) const
    {
        return state_->transport.uri(local_endpoint(), export_name);
    }

private:
    using state_type =
        acceptance::server_state<Transport, ThreadingPolicy, export_set_type, Observer>;
    struct nothing {
        template <class... Args>
        explicit nothing(Args&&...) noexcept
        {
        }
        std::error_code start() { return {}; }
        void stop() noexcept {}
        bool runs_here() { return true; }
    };
    // An unsound backend is diagnosed by one sentence; the errors inside the listener would hide it.
    using listener_type =
        std::conditional_t<sound && nbd::transport<Transport> && threading_policy<ThreadingPolicy>,
                           acceptance::listener<state_type>, nothing>;

    void begin_stop() noexcept
    {
        if (state_->stopping.exchange(true) || !state_->running)
            return;
        if (const auto running = listener_.lock())
            running->stop();
    }
    [[nodiscard]] bool runs_here()
    {
        const auto running = listener_.lock();
        return running && running->runs_here();
    }

    std::shared_ptr<state_type> state_;
    std::shared_ptr<listener_type> unstarted_;
    std::weak_ptr<listener_type> listener_;
};

}  // namespace nbd
