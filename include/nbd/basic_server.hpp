// SPDX-License-Identifier: MIT
#pragma once

// clang-format off
#include <nbd/requirements.hpp>  // first
// clang-format on
#include <nbd/acceptance/adoption.hpp>
#include <nbd/acceptance/connection_info.hpp>
#include <nbd/acceptance/end_waiter.hpp>
#include <nbd/acceptance/listener.hpp>
#include <nbd/acceptance/server_state.hpp>
#include <nbd/acceptance/unfit_server.hpp>
#include <nbd/acceptance/wrong_arguments.hpp>
#include <nbd/error.hpp>
#include <nbd/exports/export_set.hpp>
#include <nbd/server_options.hpp>
#include <nbd/settings.hpp>
#include <nbd/vocabulary/established.hpp>

#include <boost/asio/async_result.hpp>
#include <boost/system/error_code.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace nbd {

/// An NBD server, composed at compile time:
///
///     nbd::server<nbd::unix_transport, nbd::mem_backend, nbd::per_client_threads> server{
///         {.path = "/tmp/disk.sock"}};
///     server.exports().add("disk", nbd::mem_backend{size});
///     server.run();
///
/// `<nbd/server.hpp>` includes it with the transports, the policies and the memory backend. With
/// `<nbd/basic_server.hpp>`, include also the parts that you use. A server runs once. It handles no
/// signals; the program calls stop(). Exports can be added and removed at any time.
///
/// *Thread safety*: exports(), stop(), async_stop() and wait() from any thread; after start() every
/// member but the destructor, also inside a call of the program. Otherwise: one thread.
template <class Transport, class Backend, class ThreadingPolicy, class Observer>
    requires acceptance::parts_fit<Transport, Backend, ThreadingPolicy, Observer>
class server<Transport, Backend, ThreadingPolicy, Observer>
    : acceptance::wrong_arguments<server_options<Transport, Backend, ThreadingPolicy, Observer>> {
    static constexpr bool hosted = acceptance::hosted<ThreadingPolicy>;
    using state_type =
        acceptance::server_state<Transport, ThreadingPolicy, export_set<Backend>, Observer>;

public:
    using export_set_type = export_set<Backend>;
    using endpoint_type = typename Transport::protocol_type::endpoint;
    /// The client's end of a connection, such as nbd::tcp_peer.
    using peer_type = typename Transport::peer_type;
    /// The executor of handlers that have none of their own: with on_executor the program's
    /// executor, otherwise that of the server's own thread.
    using executor_type = typename acceptance::handler_executor<ThreadingPolicy>::type;

    /// Whether a lock serializes the calls of the backend (its promise is serialize_all).
    static constexpr bool locks_backend = export_set_type::locks;
    using options = server_options<Transport, Backend, ThreadingPolicy, Observer>;

    // For arguments that do not fit: compile errors that say why, in the comment if deleted.
    using wrong_arguments = acceptance::wrong_arguments<options>;
    using wrong_arguments::wrong_arguments;
    server() = delete;  // nbd: a server needs the settings of its transport: {{.path = ...}}
    template <class = void>
    server(...) = delete;  // nbd: a wrong member in braces; `server::options{...}` says which

    /// *Errors*: std::system_error if the system has no more descriptors.
    explicit server(options o)
        : state_{std::make_shared<state_type>(
            o.exports ? std::move(o.exports) : std::make_shared<export_set_type>(),
            std::move(o.settings), std::move(o.observer), Transport{std::move(o.listen)},
            std::move(o.admit), std::move(o.authorise), o.policy)},
          unstarted_{std::make_shared<listener_type>(state_, std::move(o.policy))},
          listener_{unstarted_}
    {
    }
    /// The short form, with the most used options.
    explicit server(typename Transport::settings listen, settings limits = {},
                    ThreadingPolicy policy = default_policy<ThreadingPolicy>(),
                    Observer observer = default_observer<Observer>())
        : server{options{.listen = std::move(listen),
                         .settings = std::move(limits),
                         .policy = std::move(policy),
                         .observer = std::move(observer)}}
    {
    }
    /// For the policy nbd::on_executor, with an executor or a context of the program.
    template <class Where>
        requires acceptance::where_it_runs<Where, ThreadingPolicy>
    server(Where&& where, typename Transport::settings listen, settings limits = {},
           Observer observer = default_observer<Observer>())
        : server{std::move(listen), std::move(limits), ThreadingPolicy{std::forward<Where>(where)},
                 std::move(observer)}
    {
    }
    server(const server&) = delete;
    server& operator=(const server&) = delete;

    /// Stops the server. With threads of its own it waits, except on one of these, until every
    /// client is disconnected and all threads have ended. With on_executor it never waits: sessions
    /// end while the context runs, or when it is destroyed, and keep alive what they use.
    ~server()
    {
        begin_stop();
        if constexpr (!hosted) {
            const bool here = runs_here();
            wait();
            state_->control.end(here);
        }
    }

    [[nodiscard]] export_set_type& exports() noexcept { return *state_->exports; }
    [[nodiscard]] Observer& observer() noexcept { return state_->observer; }

    /// Listens, begins to serve on the policy's threads or the program's executor, and returns.
    /// *Errors*: the transport's (address in use, path too long ...); the system's (no more threads
    /// or descriptors); errc::already_started; errc::server_stopped. After an error nothing runs,
    /// and each later start() returns errc::already_started.
    void start(std::error_code& error)
    {
        error = start_with([this](auto& accepting) { return accepting.listen(state_->transport); });
    }
    /// As above; throws std::system_error.
    void start()
    {
        acceptance::check([this](auto& failed) { this->start(failed); },
                          [this] { return "nbd: cannot listen on " + state_->transport.where(); });
    }
    /// As start(), with a listening socket of the program, or a std::vector<int> of them; see
    /// <nbd/transport/activation.hpp> for those of a service manager. The server owns the
    /// descriptor from the call on, but not the socket's file. For an acceptor of Asio, pass
    /// `acceptor.release()`. *Errors*: also wrong_protocol_type and invalid_argument, for a
    /// descriptor that is no such socket.
    void start_on(acceptance::given_sockets listening, std::error_code& error)
    {
        error = start_with(
            [&](auto& accepting) { return accepting.listen_on(state_->transport, listening.all); });
    }
    void start_on(acceptance::given_sockets listening)
    {
        acceptance::check([&](auto& failed) { this->start_on(std::move(listening), failed); },
                          [] { return "nbd: cannot accept from this socket"; });
    }
    /// As start(), for a server that does not listen. adopt() adds connections.
    void start_without_listening(std::error_code& error)
    {
        error = start_with([](auto&) { return std::error_code{}; });
    }
    void start_without_listening()
    {
        acceptance::check([this](auto& failed) { this->start_without_listening(failed); },
                          [] { return "nbd: cannot start"; });
    }

    /// Serves a connected socket of the program, with the limits of an accepted connection. The
    /// server owns the descriptor from the call on. For a socket of Asio, pass `socket.release()`.
    /// *Errors*: errc::not_running; wrong_protocol_type and invalid_argument, for a descriptor that
    /// is no such socket. *Thread safety*: any thread.
    void adopt(int connected_socket, std::error_code& error)
    {
        error = acceptance::adopt(*state_, listener_.lock(), connected_socket);
    }
    void adopt(int connected_socket)
    {
        acceptance::adopt_or_throw(*state_, listener_.lock(), connected_socket);
    }
    /// As above, for a connection whose handshake is over, as that of the kernel's block device: it
    /// begins with transmission. The export is looked up and opened as for GO. Where that fails,
    /// the connection is closed; at_option_error, at_disconnect and `begun.opened` get the reason.
    void adopt(int connected_socket, established begun, std::error_code& error)
    {
        error = acceptance::adopt(*state_, listener_.lock(), connected_socket, std::move(begun));
    }
    void adopt(int connected_socket, established begun)
    {
        acceptance::adopt_or_throw(*state_, listener_.lock(), connected_socket, std::move(begun));
    }

    /// The present connections, oldest first. *Thread safety*: any thread. *Complexity*: linear.
    [[nodiscard]] std::vector<connection_info> connections() const
    {
        const auto running = listener_.lock();
        return running ? running->list() : std::vector<connection_info>{};
    }
    /// Closes a connection at once. Its requests in flight get no reply. The observer gets
    /// errc::disconnected. *Returns* whether the connection exists. *Thread safety*: any thread.
    bool disconnect(std::uint64_t id) noexcept
    {
        const auto running = listener_.lock();
        return running && running->disconnect(id);
    }

    /// Returns when the server has stopped, every client is disconnected and, with on_executor, no
    /// handler of the server is left. Returns at once if the server was not started, or on a thread
    /// that runs the server; with any_io_executor it cannot detect this and blocks forever. With
    /// on_executor, another thread must run the context, or destroy it.
    void wait()
    {
        if (!state_->running || runs_here())
            return;
        state_->ended.wait(false);
    }

    /// Stops the server: accepts no more clients, and closes every connection. Requests that have
    /// begun are completed and answered; the others get ESHUTDOWN, and so does a request of several
    /// calls of the backend before its next call. After settings.stop_grace the remaining
    /// connections are closed, and awaited calls of a `cancellable` backend are cancelled. All
    /// other calls run to their end. Then `drain` of the backends is called (settings.drain_grace).
    /// With threads of its own, the server then waits as in wait(). With on_executor it does not. A
    /// call that has moved to a thread of its backend would wait for itself: there, use
    /// async_stop(boost::asio::detached).
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

    using wrong_arguments::async_run, wrong_arguments::async_stop;
    /// As start(). Completes when the server has stopped and every client is disconnected.
    ///
    /// `token`: a completion token for `void(boost::system::error_code)`. Its handler runs on its
    /// associated executor, otherwise on get_executor(). Its associated allocator is used.
    /// *Errors*: those of start(). *Cancellation* (every type): as stop(); when the server has
    /// stopped, completes with operation_aborted. *Lifetime*: the operation outlives the server
    /// object, whose destructor stops the server. The destruction of the program's context destroys
    /// the handler without a call.
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
    /// Begins to stop, as stop(). Completes when every client is disconnected, or at once if the
    /// server does not run. `token`: as for async_run. *Cancellation* (every type): ends the grace
    /// period that runs (settings.stop_grace, then drain_grace); the operation still completes when
    /// the server has stopped. *Lifetime*: as for async_run; the handler may destroy the server.
    template <boost::asio::completion_token_for<void(boost::system::error_code)> Token>
    auto async_stop(Token&& token)
    {
        return boost::asio::async_initiate<Token, void(boost::system::error_code)>(
            [this](auto handler) {
                begin_stop();
                wait_for_end(std::move(handler), {},
                             [](state_type&, listener_type& l) { l.end_grace(); });
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

    /// The first address that the server listens on; for port 0, with the port chosen by start().
    [[nodiscard]] endpoint_type local_endpoint() const
    {
        return state_->listening.empty() ? endpoint_type{} : state_->listening.front().endpoint;
    }
    /// All of them, in the order of the settings.
    [[nodiscard]] std::vector<endpoint_type> local_endpoints() const { return state_->endpoints(); }

    /// The NBD URIs of an export, for clients: one for each address that the server listens on.
    /// *Errors*: std::logic_error before start().
    [[nodiscard]] std::vector<std::string> uris(std::string_view export_name) const
    {
        return state_->uris(export_name);
    }
    /// The first of them; empty if the server does not listen.
    [[nodiscard]] std::string uri(std::string_view export_name) const
    {
        const auto all = uris(export_name);
        return all.empty() ? std::string{} : all.front();
    }

private:
    using listener_type = acceptance::listener<state_type>;

    template <class Open>
    [[nodiscard]] std::error_code start_with(Open open)
    {
        if (state_->started)  // unstarted_ may be in use by another thread
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
        if constexpr (!hosted)
            if (state_->control.runs_here())
                return true;
        const auto running = listener_.lock();
        return running && running->runs_here();
    }

    std::shared_ptr<state_type> state_;
    std::shared_ptr<listener_type> unstarted_;
    std::weak_ptr<listener_type> listener_;
};

}  // namespace nbd
