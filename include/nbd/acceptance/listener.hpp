// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/connections.hpp>
#include <nbd/acceptance/operation.hpp>
#include <nbd/acceptance/server_state.hpp>
#include <nbd/error.hpp>
#include <nbd/io/asynchronous.hpp>
#include <nbd/io/blocking.hpp>
#include <nbd/session/private_context.hpp>
#include <nbd/session/serve.hpp>
#include <nbd/settings.hpp>

#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/post.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>

#include <fcntl.h>

namespace nbd::acceptance {

/// Accepts clients, starts their sessions on the threading policy, disconnects those that exceed a limit,
/// and disconnects all when the server stops. It runs as handlers of a control executor; the sessions run
/// on the policy.
///
/// *Lifetime*: on an executor of the program, each handler and each session shares the ownership of the
/// listener. With threads of its own, the control thread owns it and joins the others first.
template <class State>
class listener : public std::enable_shared_from_this<listener<State>> {
    using policy_type = typename State::policy_type;
    using exports_type = typename State::exports_type;
    using observer_type = typename State::observer_type;
    using protocol_type = typename State::transport_type::protocol_type;
    using control_executor = typename State::control_type::executor_type;
    using clock_type = std::chrono::steady_clock;
    using acceptor_type = boost::asio::basic_socket_acceptor<protocol_type, control_executor>;
    using timer_type =
        boost::asio::basic_waitable_timer<clock_type, boost::asio::wait_traits<clock_type>,
                                          control_executor>;
    using executor_type = typename policy_type::executor_type;
    using socket_type = boost::asio::basic_stream_socket<protocol_type, executor_type>;
    using connections_type = connections<socket_type, observer_type>;
    using entry = typename connections_type::entry;
    static constexpr bool on_program = hosted<policy_type>;
    using hold_type = std::conditional_t<on_program, std::shared_ptr<listener>, listener*>;
    static constexpr bool awaits = asynchronous<typename exports_type::opened::backend_type>;
    using io_type =
        std::conditional_t<policy_type::blocking, io::blocking,
                           io::asynchronous<executor_type, promises_polls<policy_type>>>;

public:
    listener(std::shared_ptr<State> state, policy_type policy)
        : state_{std::move(state)}, policy_{std::move(policy)}
    {
    }
    listener& operator=(listener&&) = delete;
    ~listener() { state_->transport.close(); }

    [[nodiscard]] std::error_code start()
    {
        if (state_->started.exchange(true))
            return errc::already_started;
        if (const auto failed = state_->transport.listen(acceptor_))
            return failed;
        ::fcntl(acceptor_.native_handle(), F_SETFD, FD_CLOEXEC);
        state_->endpoint = acceptor_.local_endpoint();
        try {
            policy_.start();
            accept();
            run_control();
        } catch (...) {  // no thread, no descriptor or no memory
            const auto why = current_error();
            boost::system::error_code ignored;
            acceptor_.close(ignored);
            state_->transport.close();
            policy_.join();
            if constexpr (!on_program)
                state_->control.run_ready();
            return why;
        }
        state_->running = true;
        if (state_->stopping)
            stop();
        return {};
    }

    /// Begins to stop. *Thread safety*: any thread.
    void stop() noexcept
    {
        post([](listener& self) { self.close_down(); });
    }

    /// Whether the calling thread must not wait for the server.
    [[nodiscard]] bool runs_here()
    {
        if constexpr (on_program)
            return policy_.runs_here();
        else
            return state_->control.runs_here() || policy_.runs_here();
    }

private:
    template <class, class>
    friend class operation;
    friend class session_task<listener>;

    [[nodiscard]] hold_type hold()
    {
        if constexpr (on_program)
            return this->shared_from_this();
        else
            return this;
    }
    /// Calls `f(*this)` on the control executor. Without memory for that, the next handler recovers.
    template <class F>
    void post(F f) noexcept
    {
        try {
            boost::asio::post(control_, [self = hold(), f] {
                try {
                    f(*self);
                } catch (...) {
                    self->recover();
                }
            });
        } catch (...) {
        }
    }
    void run_control()
    {
        if constexpr (!on_program) {
            state_->control.start([self = this->shared_from_this()]() mutable {
                self->state_->control.run([&self] { self->recover(); });
                self->policy_.join();
                self.reset();
            });
        }
    }

    // --- on the control executor ----------------------------------------------------------------

    /// Resumes what an exception left undone.
    void recover() noexcept
    {
        try {
            if (state_->stopping && !closing_)
                close_down();
            if (!accepting_ && !waiting_ && !state_->stopping)
                accept_later(std::make_error_code(std::errc::not_enough_memory));
            if (!ticking_)
                tick();
        } catch (...) {  // the next handler tries again
        }
    }

    void accept()
    {
        try {
            acceptor_.async_accept(
                policy_.next_executor(),
                operation{*this, accepting_,
                          [](listener& self, const boost::system::error_code& error,
                             socket_type socket) { self.accepted(error, std::move(socket)); }});
        } catch (...) {  // no memory for a socket
            accept_later(current_error());
        }
    }

    /// Without descriptors or memory, accept fails at once and repeatedly; a pause lets clients return some.
    void accept_later(std::error_code why)
    {
        notify::at_accept_error(state_->observer, why);
        pause_.expires_after(std::chrono::milliseconds{100});
        pause_.async_wait(operation{*this, accepting_,
                                    [](listener& self, const boost::system::error_code& cancelled) {
                                        if (!cancelled)
                                            self.accept();
                                    }});
    }

    void accepted(const boost::system::error_code& error, socket_type socket)
    {
        if (state_->stopping) {
            close_down();
            return;
        }
        if (error) {
            accept_later(error);
            return;
        }
        ::fcntl(socket.native_handle(), F_SETFD, FD_CLOEXEC);
        state_->transport.prepare(socket);
        waiting_.emplace(std::move(socket));
        admit_next();
    }

    /// Starts the session of the waiting client if there is a place, then accepts the next one. Without a
    /// place, one client waits here and the others in the backlog.
    void admit_next()
    {
        if (!waiting_ || state_->stopping)
            return;
        const auto most = state_->limits.max_connections;
        if (most != 0 && connections_.count() >= most) {
            connections_.evict_longest_handshake(clock_.now());
            return;
        }
        auto socket = std::move(*waiting_);
        waiting_.reset();
        try {
            launch(std::move(socket));
        } catch (const std::bad_alloc&) {  // this connection is closed
        }
        accept();
    }

    void launch(socket_type socket)
    {
        clock_.advance_to(elapsed());
        client who{.id = ++last_id_, .peer = state_->transport.peer(socket)};
        const auto executor = socket.get_executor();
        const entry at = connections_.add(std::move(socket), state_->limits, state_->observer,
                                          std::move(who), clock_, state_->stopping, memory_);
        session_task session{*this, at};
        if constexpr (policy_type::blocking && !awaits)
            at->limit_blocking_sends();
        notify::at_connect(state_->observer, at->session.who);
        if (!ticking_)
            recover();
        policy_.launch(executor, std::move(session));
    }

    /// Advances the time of the sessions and disconnects clients that exceed a time limit. It repeats
    /// while clients are connected.
    void tick()
    {
        clock_.advance_to(elapsed());
        memory_.retry();
        const auto clients = connections_.count();
        // With thousands of clients a sweep takes long, so it is done less often.
        const std::uint64_t interval = 1 + std::min<std::uint64_t>(clients / 2500, 7);
        if (clock_.now() - swept_ >= interval) {
            connections_.cut_overdue(interval);
            swept_ = clock_.now();
        }
        if (closing_ && clock_.now() >= grace_end_)
            connections_.cut_all(errc::server_stopped);
        admit_next();
        if (finish_if_empty() || connections_.count() == 0)
            return;
        tick_.expires_after(session::ticker::tick);
        tick_.async_wait(operation{*this, ticking_,
                                   [](listener& self, const boost::system::error_code& cancelled) {
                                       if (!cancelled)
                                           self.tick();
                                   }});
    }

    void close_down()
    {
        if (closing_)
            return;
        closing_ = true;
        boost::system::error_code ignored;
        acceptor_.close(ignored);
        state_->transport.close();
        waiting_.reset();
        pause_.cancel();
        clock_.advance_to(elapsed());
        grace_end_ = clock_.now() + session::ticker::ticks(state_->limits.stop_grace);
        // Each session answers what it has received, then reads the end of its stream.
        connections_.end_of_requests();
        memory_.stop();
        if (!finish_if_empty() && !ticking_)
            tick();
    }

    /// True where the server has stopped and no client is left.
    bool finish_if_empty()
    {
        if (!closing_ || connections_.count() != 0)
            return false;
        tick_.cancel();
        if constexpr (!on_program)
            state_->control.finish();
        return true;
    }

    // --- on any thread --------------------------------------------------------------------------

    [[nodiscard]] auto serve(entry at)
    {
        if constexpr (policy_type::blocking && awaits)
            return session::on_private_context{at->socket, *state_->exports, at->session, policy_};
        else
            return session::serve<io_type>(at->socket, *state_->exports, at->session, policy_);
    }
    /// The session of a client is gone.
    void ended(entry at) noexcept
    {
        std::error_code why = at->session.ended;
        if (const auto by_server = at->cut_for(); by_server != errc{})
            why = by_server;
        else if (state_->stopping && (!why || why == errc::cut_short))
            why = errc::server_stopped;
        notify::at_disconnect(state_->observer, at->session.who, why);
        connections_.remove(at);
        post([](listener& self) {
            self.admit_next();
            self.finish_if_empty();
        });
    }

    [[nodiscard]] std::uint64_t elapsed() const
    {
        return static_cast<std::uint64_t>((clock_type::now() - epoch_) / session::ticker::tick);
    }

    const end_mark<State> state_;  // first, so that it is destroyed last
    policy_type policy_;
    session::memory_budget memory_{state_->limits};
    session::ticker clock_;
    const clock_type::time_point epoch_ = clock_type::now();
    connections_type connections_;

    control_executor control_{state_->control.executor()};
    acceptor_type acceptor_{control_};
    timer_type tick_{control_};
    timer_type pause_{control_};
    std::optional<socket_type> waiting_;
    std::uint64_t last_id_ = 0;
    std::uint64_t swept_ = 0;      ///< in ticks
    std::uint64_t grace_end_ = 0;  ///< in ticks
    bool closing_ = false;
    std::atomic<bool> accepting_{false};  ///< an accept, or the pause before it, is pending
    std::atomic<bool> ticking_{false};
};

}  // namespace nbd::acceptance
