// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/connection_info.hpp>
#include <nbd/acceptance/end_waiter.hpp>
#include <nbd/acceptance/listener.hpp>
#include <nbd/acceptance/parts_fit.hpp>
#include <nbd/acceptance/server_state.hpp>
#include <nbd/acceptance/sockets.hpp>
#include <nbd/error.hpp>
#include <nbd/exports/export_set.hpp>
#include <nbd/server_options.hpp>
#include <nbd/settings.hpp>

#include <boost/asio/async_result.hpp>
#include <boost/system/error_code.hpp>

#include <concepts>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace nbd {

class per_client_threads;

/// The primary template stands for parts that do not fit together: a sentence of the compiler says why.
template <class Transport, class Backend, class ThreadingPolicy = per_client_threads,
          class Observer = silent>
class server : public acceptance::unfit_server<Transport> {
public:
    using acceptance::unfit_server<Transport>::unfit_server;
};

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
template <class Transport, class Backend, class ThreadingPolicy, class Observer>
    requires(acceptance::parts_fit<Transport, Backend, ThreadingPolicy, Observer>())
class server<Transport, Backend, ThreadingPolicy, Observer> {
    static constexpr bool hosted = acceptance::hosted<ThreadingPolicy>;
    using state_type =
        acceptance::server_state<Transport, ThreadingPolicy, export_set<Backend>, Observer>;

public:
    using export_set_type = export_set<Backend>;
    using endpoint_type = typename Transport::protocol_type::endpoint;
    /// The client of a connection as the transport knows it: nbd::tcp_peer, nbd::unix_peer.
    using peer_type = typename Transport::peer_type;
    /// Where handlers without an executor run: the program's executor with on_executor, otherwise the server's
    /// own thread.
    using executor_type = typename acceptance::handler_executor<ThreadingPolicy>::type;

    /// Whether calls of the backend take a lock, because it promises no more than serialize_all.
    static constexpr bool locks_backend = export_set_type::locks;
    using options = server_options<Transport, Backend, ThreadingPolicy, Observer>;

    /// *Errors*: std::system_error where the system has no more descriptors.
    explicit server(options o)
        : state_{std::make_shared<state_type>(
            o.exports ? std::move(o.exports) : std::make_shared<export_set_type>(),
            std::move(o.settings), std::move(o.observer), Transport{std::move(o.listen)},
            std::move(o.admit), o.policy)},
          unstarted_{std::make_shared<listener_type>(state_, std::move(o.policy))},
          listener_{unstarted_}
    {
    }
    /// The short form, of the most used options.
    explicit server(typename Transport::settings listen, settings limits = {},
                    ThreadingPolicy policy = ThreadingPolicy{}, Observer observer = {})
        : server{options{.listen = std::move(listen),
                         .settings = std::move(limits),
                         .policy = std::move(policy),
                         .observer = std::move(observer)}}
    {
    }
    /// On an executor of the program, with the policy nbd::on_executor.
    template <class Executor>
        requires(std::constructible_from<ThreadingPolicy, Executor>
                 && std::same_as<Executor, typename ThreadingPolicy::executor_type>)
    server(Executor executor, typename Transport::settings listen, settings limits = {},
           Observer observer = {})
        : server{std::move(listen), std::move(limits), ThreadingPolicy{std::move(executor)},
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
            const bool here = runs_here();
            if (!here)
                wait();
            state_->control.end(here);
        }
    }

    [[nodiscard]] export_set_type& exports() noexcept { return *state_->exports; }
    [[nodiscard]] Observer& observer() noexcept { return state_->observer; }

    /// Listens, starts to serve, and returns: on threads of the policy, or on the program's executor.
    /// *Errors*: the transport's (address in use, path too long, permission denied ...), the system's where
    /// it has no more threads or descriptors, errc::already_started, errc::server_stopped. Nothing is started
    /// then.
    void start(std::error_code& error)
    {
        error = start_with([this](auto& acceptor) { return state_->transport.listen(acceptor); });
    }
    /// As above; throws std::system_error.
    void start()
    {
        std::error_code failed;
        start(failed);
        check(failed, "nbd: cannot listen on " + state_->transport.where());
    }
    /// As start(), with a listening socket of the program, from a service manager for example. The server owns
    /// the descriptor from the call on, and leaves a socket file to the program. An acceptor of Asio gives its
    /// descriptor away by `acceptor.release()`.
    /// *Errors*: also wrong_protocol_type and invalid_argument, where the descriptor is something else.
    void start_on(int listening_socket, std::error_code& error)
    {
        owned_descriptor owned{listening_socket};
        error = start_with([&owned](auto& acceptor) -> std::error_code {
            endpoint_type local;
            if (const auto failed = acceptance::check_socket(owned.get(), true, local))
                return failed;
            return acceptance::assign(acceptor, std::move(owned), local.protocol());
        });
    }
    /// As above; throws std::system_error.
    void start_on(int listening_socket)
    {
        std::error_code failed;
        start_on(listening_socket, failed);
        check(failed, "nbd: cannot accept from this socket");
    }
    /// As start(), for a server that does not listen: adopt() brings its connections.
    void start_without_listening(std::error_code& error)
    {
        error = start_with([](auto&) { return std::error_code{}; });
    }
    void start_without_listening()
    {
        std::error_code failed;
        start_without_listening(failed);
        check(failed, "nbd: cannot start");
    }

    /// Serves a connected socket of the program, as one that the server accepted: the same limits hold. The
    /// server owns the descriptor from the call on. A socket of Asio gives it away by `socket.release()`.
    /// *Errors*: errc::not_running; wrong_protocol_type and invalid_argument where the descriptor is something
    /// else. *Thread safety*: any thread.
    void adopt(int connected_socket, std::error_code& error)
    {
        owned_descriptor owned{connected_socket};
        endpoint_type local;
        error = acceptance::check_socket(owned.get(), false, local);
        const auto running = listener_.lock();
        if (!error && (!running || !state_->running || state_->stopping))
            error = errc::not_running;
        if (!error)
            running->adopt(std::move(owned), local);
    }
    void adopt(int connected_socket)
    {
        std::error_code failed;
        adopt(connected_socket, failed);
        check(failed, "nbd: cannot serve this socket");
    }

    /// The connections of the moment, in the order of their arrival. *Thread safety*: any thread.
    /// *Complexity*: linear; a lock is held that disconnections and new connections take, too.
    [[nodiscard]] std::vector<connection_info> connections() const
    {
        const auto running = listener_.lock();
        return running ? running->list() : std::vector<connection_info>{};
    }
    /// Closes a connection, at once: its requests in flight are not answered. The observer gets
    /// errc::disconnected. *Returns*: whether there is such a connection. *Thread safety*: any thread.
    bool disconnect(std::uint64_t id) noexcept
    {
        const auto running = listener_.lock();
        return running && running->disconnect(id);
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

    /// As start(), completes when the server has stopped and every client is disconnected.
    ///
    /// `token`: a completion token for `void(boost::system::error_code)`. Its handler runs on its associated
    /// executor, otherwise on get_executor(); its allocator serves the operation.
    /// *Errors*: those of start(). *Cancellation* (every type): as stop(); the operation completes with
    /// operation_aborted when the server has stopped. *Lifetime*: the operation outlives the server object,
    /// whose destructor stops it. If the context of an executor of the program is destroyed, the handler is
    /// destroyed and not called.
    template <boost::asio::completion_token_for<void(boost::system::error_code)> Token>
    auto async_run(Token&& token)
    {
        return boost::asio::async_initiate<Token, void(boost::system::error_code)>(
            [this](auto handler) {
                std::error_code failed;
                start(failed);
                wait_for_end(std::move(handler), failed, [](state_type& state, listener_type& l) {
                    state.cancelled = true;
                    if (!state.stopping.exchange(true))
                        l.stop();
                });
            },
            token);
    }
    /// Begins to stop, as stop() does, and completes when every client is disconnected; at once where the server
    /// does not run. `token`: as for async_run.
    /// *Cancellation* (every type): ends settings.stop_grace; the operation still completes when the server has
    /// stopped. *Lifetime*: as for async_run; the handler may destroy the server.
    template <boost::asio::completion_token_for<void(boost::system::error_code)> Token>
    auto async_stop(Token&& token)
    {
        return boost::asio::async_initiate<Token, void(boost::system::error_code)>(
            [this](auto handler) {
                begin_stop();
                wait_for_end(std::move(handler), {},
                             [](state_type&, listener_type& l) { l.cut_all(); });
            },
            token);
    }
    /// *Thread safety*: any thread.
    [[nodiscard]] executor_type get_executor() const
    {
        if constexpr (!hosted) {
            return state_->control.executor();
        } else {
            const auto running = listener_.lock();
            return running ? running->policy().get_executor()
                           : executor_type{state_->control.inner_executor()};
        }
    }

    /// The address that the server listens on; valid after start(), which chooses a free port for port 0.
    [[nodiscard]] const endpoint_type& local_endpoint() const noexcept { return state_->endpoint; }

    /// The NBD URI of an export, for clients. Valid after start().
    [[nodiscard]] std::string uri(std::string_view export_name) const
    {
        return state_->transport.uri(local_endpoint(), export_name);
    }

private:
    using listener_type = acceptance::listener<state_type>;

    static void check(std::error_code failed, const std::string& what)
    {
        if (failed)
            throw std::system_error{failed, what};
    }
    template <class Open>
    [[nodiscard]] std::error_code start_with(Open open)
    {
        if (!unstarted_)
            return errc::already_started;
        if (const auto failed = unstarted_->start(open))
            return failed;
        unstarted_.reset();  // its handlers or its thread own it from now on
        return {};
    }
    template <class Handler, class Cancel>
    void wait_for_end(Handler handler, boost::system::error_code failed, Cancel cancel)
    {
        auto running = failed || !state_->running ? nullptr : listener_.lock();
        if constexpr (!hosted)
            state_->control.start(state_);
        const auto executor = get_executor();
        acceptance::end_waiter<listener_type, Handler, executor_type>{
            std::move(running), std::move(handler), executor, failed}
            .start([state = state_.get(), cancel](listener_type& l) { cancel(*state, l); });
    }
    void begin_stop() noexcept
    {
        if (state_->stopping.exchange(true) || !state_->running)
            return;
        if (const auto running = listener_.lock())
            running->stop();
    }
    [[nodiscard]] bool runs_here()
    {
        if constexpr (!hosted) {
            if (state_->control.runs_here())
                return true;
        }
        const auto running = listener_.lock();
        return running && running->runs_here();
    }

    std::shared_ptr<state_type> state_;
    std::shared_ptr<listener_type> unstarted_;
    std::weak_ptr<listener_type> listener_;
};

}  // namespace nbd
