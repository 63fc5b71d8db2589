// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/listener.hpp>
#include <nbd/backend/mem_backend.hpp>
#include <nbd/concepts/diagnosis.hpp>
#include <nbd/concepts/observer.hpp>
#include <nbd/concepts/threading_policy.hpp>
#include <nbd/concepts/transport.hpp>
#include <nbd/error.hpp>
#include <nbd/exports/export_set.hpp>
#include <nbd/settings.hpp>
#include <nbd/threading/on_executor.hpp>
#include <nbd/threading/per_client_threads.hpp>
#include <nbd/threading/strand_pool.hpp>
#include <nbd/transport/tcp_transport.hpp>
#include <nbd/transport/unix_transport.hpp>
#include <nbd/version.hpp>

#include <concepts>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace nbd {

/// An NBD server, composed at compile time:
///
///     nbd::server<nbd::unix_transport, nbd::mem_backend, nbd::per_client_threads> server{
///         {.path = "/tmp/disk.sock"}};
///     server.exports().add("disk", nbd::mem_backend{size});
///     server.run();
///
/// It is complete when constructed and runs once. Signals are the program's to handle: call stop().
/// A client sees an export for as long as it is in `exports()`; add and remove at any time.
/// Thread safety: exports(), stop() and wait() from any thread at any time, also from a backend or
/// an observer, where stop() only begins to stop. Start and destroy it from one thread.
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
        diagnosis::runs_on<served_t<Backend>, typename ThreadingPolicy::executor_type>();
    static_assert(
        fits,
        "nbd: this backend's awaitable is of an executor that the policy's clients do not "
        "have; use `boost::asio::awaitable<T, Policy::executor_type>`, or "
        "`boost::asio::awaitable<T>`, which runs anywhere");
    static constexpr bool sound = fits && diagnosis::backend_is_sound<Backend>();

public:
    using export_set_type = export_set<Backend>;
    using endpoint_type = typename Transport::protocol_type::endpoint;

    /// Whether calls of the backend take a lock, because it promises no more than serialize_all.
    static constexpr bool locks_backend = export_set_type::locks;

    /// Errors: std::system_error where the system has no descriptors left; all else is for start().
    explicit server(typename Transport::settings listen_at, settings limits = {},
                    ThreadingPolicy policy = ThreadingPolicy{}, Observer observer = {})
        : server{std::make_shared<export_set_type>(), std::move(listen_at), std::move(limits),
                 std::move(policy), std::move(observer)}
    {
    }

    /// As above, with exports that another server (on another transport, say) serves too.
    server(std::shared_ptr<export_set_type> shared, typename Transport::settings listen_at,
           settings limits = {}, ThreadingPolicy policy = {}, Observer observer = {})
        : exports_{std::move(shared)}, limits_{std::move(limits)}, observer_{std::move(observer)},
          transport_{std::move(listen_at)}, policy_{std::move(policy)}
    {
    }
    /// On an executor of the program's own, with the policy nbd::on_executor.
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
    /// Stops, and waits until every client has left; not so on a thread that runs an executor of the
    /// program's own (on_executor), where they must have left before.
    ~server() = default;

    [[nodiscard]] export_set_type& exports() noexcept { return *exports_; }
    [[nodiscard]] Observer& observer() noexcept { return observer_; }

    /// Listens and serves, on threads of the policy's or on the program's executor, and returns. On an
    /// error nothing was started.
    /// Errors: the transport's (address in use, path too long, no permission ...), the system's when
    /// it has no more threads, errc::started_before.
    void start(std::error_code& error) { error = listener_.start(); }
    /// As above; throws std::system_error.
    void start()
    {
        if (const auto failed = listener_.start())
            throw std::system_error{failed, "nbd: cannot listen on " + transport_.where()};
    }

    /// Returns when the server has stopped and every client has left; at once where it was not
    /// started, and on the server's own threads, which cannot wait for themselves.
    void wait() { listener_.wait(); }

    /// Accepts nobody any more, finishes and answers the requests that were begun, answers ESHUTDOWN
    /// to those that were only received, and to zeroes that had to be written and are not yet, closes
    /// every connection and returns. Clients that take longer than settings.stop_grace are cut, and what
    /// they await is cancelled; a call that blocks takes what it takes.
    void stop() { listener_.stop(); }

    /// start() and wait().
    void run()
    {
        start();
        wait();
    }

    /// Where it listens, after start(): the port that was free, for one.
    [[nodiscard]] const endpoint_type& local_endpoint() const noexcept
    {
        return listener_.local_endpoint();
    }

    /// The NBD URI of an export, to paste into any client, after start().
    [[nodiscard]] std::string uri(std::string_view export_name) const
    {
        return transport_.uri(local_endpoint(), export_name);
    }

private:
    struct nothing {
        template <class... Args>
        explicit nothing(Args&&...) noexcept
        {
        }
        std::error_code start() { return {}; }
        void wait() {}
        void stop() {}
        endpoint_type local_endpoint() const { return {}; }
    };
    // A backend that is not sound has had its sentence; pages of templates would only hide it.
    using listener_type = std::conditional_t<
        sound && nbd::transport<Transport> && threading_policy<ThreadingPolicy>,
        acceptance::listener<Transport, ThreadingPolicy, export_set_type, Observer>, nothing>;

    std::shared_ptr<export_set_type> exports_;
    const settings limits_;
    [[no_unique_address]] Observer observer_;
    Transport transport_;
    ThreadingPolicy policy_;
    listener_type listener_{transport_, policy_, *exports_, limits_, observer_};
};

}  // namespace nbd
