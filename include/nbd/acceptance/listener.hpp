// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/accept_loops.hpp>
#include <nbd/acceptance/addresses.hpp>
#include <nbd/acceptance/admission_queue.hpp>
#include <nbd/acceptance/connections.hpp>
#include <nbd/acceptance/control.hpp>
#include <nbd/acceptance/drains.hpp>
#include <nbd/acceptance/operation.hpp>
#include <nbd/acceptance/server_state.hpp>
#include <nbd/acceptance/serving.hpp>
#include <nbd/acceptance/sockets.hpp>
#include <nbd/acceptance/sweeper.hpp>
#include <nbd/error.hpp>
#include <nbd/io/handler_memory.hpp>
#include <nbd/settings.hpp>
#include <nbd/vocabulary/established.hpp>

#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/post.hpp>
#include <boost/system/error_code.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace nbd::acceptance {

/// Accepts clients, starts their sessions on the threading policy, and disconnects clients that
/// exceed a limit, and all clients when the server stops. Its handlers run on a control executor.
///
/// *Lifetime*: with on_executor, each handler and each session shares the ownership of the
/// listener. Otherwise the control thread owns it, and first joins the policy's threads.
template <class State>
class listener : public std::enable_shared_from_this<listener<State>> {
    using policy_type = typename State::policy_type;
    using exports_type = typename State::exports_type;
    using protocol_type = typename State::transport_type::protocol_type;
    using peer_type = typename State::transport_type::peer_type;
    using control_executor = typename State::control_type::executor_type;
    using timer_type = control_timer<control_executor>;
    using executor_type = typename policy_type::executor_type;
    using socket_type = boost::asio::basic_stream_socket<protocol_type, executor_type>;
    using connections_type = connections<socket_type, peer_type, typename State::observer_type>;
    using entry = typename connections_type::entry;
    static constexpr bool on_program = hosted<policy_type>;
    using hold_type = std::conditional_t<on_program, std::shared_ptr<listener>, listener*>;

public:
    listener(std::shared_ptr<State> state, policy_type policy)
        : state_{std::move(state)}, policy_{std::move(policy)}
    {
    }
    listener& operator=(listener&&) = delete;
    ~listener() { state_->transport.close(); }

    /// `open(accepting)` makes an accept_loops listen, unless the server does not accept.
    template <class Open>
    [[nodiscard]] std::error_code start(Open open)
    {
        if (state_->started.exchange(true))
            return errc::already_started;
        if (state_->stopping)
            return errc::server_stopped;
        try {
            if (const std::error_code failed = open(accepting_))
                return failed;
            state_->listening = accepting_.prepare();
            policy_.start();
            drains_.watch(*this, *state_->exports);
            if constexpr (on_program) {
                // The wait owns the listener where it does not accept. From the post on, other
                // threads may run handlers.
                end_.async_wait([self = this->shared_from_this()](auto) {});
                boost::asio::post(control_, [self = this->shared_from_this()] {
                    try {
                        self->accepting_.run();
                    } catch (...) {
                        self->recover();
                    }
                });
            } else {
                accepting_.run();
                state_->control.start(state_.share(), [self = this->shared_from_this()]() mutable {
                    self->policy_.join();
                    self->state_->control.run_ready();
                    self.reset();
                });
            }
        } catch (...) {  // no thread, no descriptor or no memory
            const auto why = current_error();
            accepting_.close();
            end_.cancel();
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

    // --- from any thread ------------------------------------------------------------------------

    void stop() noexcept
    {
        post(
            this->shared_from_this(), [](listener& self) { self.close_down(); }, &stop_memory_);
    }
    /// Ends the grace period that runs: settings.stop_grace, or then settings.drain_grace.
    void end_grace() noexcept
    {
        post(this->shared_from_this(), [](listener& self) {
            self.grace_end_ = 0;
            self.drains_.end_grace();
            self.tick();
        });
    }
    /// Serves a connected socket as if the server had accepted it.
    /// `begun`: as in session::context.
    void adopt(owned_descriptor connected, listening_at<typename State::endpoint_type> at,
               std::unique_ptr<const established> begun) noexcept
    {
        post(this->shared_from_this(),
             [fd = std::move(connected), at, b = std::move(begun)](listener& self) mutable {
                 self.receive(std::move(fd), at.endpoint.protocol(), at.address, std::move(b));
             });
    }
    [[nodiscard]] std::vector<connection_info> list() const { return connections_.list(); }
    bool disconnect(std::uint64_t id) noexcept { return connections_.cut(id, errc::disconnected); }

    /// Whether the calling thread must not wait for the server, because it runs the server.
    [[nodiscard]] bool runs_here()
    {
        if constexpr (on_program)
            return policy_.runs_here();
        else
            return state_->control.runs_here() || policy_.runs_here();
    }
    [[nodiscard]] const policy_type& policy() const noexcept { return policy_; }
    [[nodiscard]] const control_executor& control() const noexcept { return control_; }
    /// The server has stopped and no client is left.
    [[nodiscard]] bool finished() const noexcept { return finished_; }
    [[nodiscard]] boost::system::error_code result() const noexcept { return state_->result(); }
    template <class Handler>
    void wait_for_end(Handler handler)
    {
        end_.async_wait(std::move(handler));
    }

private:
    template <class, class>
    friend class operation;
    template <class E, class Hold, class F>
    friend void post_or_recover(const E&, Hold, F, io::handler_memory*) noexcept;
    template <class, class, class>
    friend class accept_loop;
    friend class session_task<listener>;
    friend class drain_task<listener>;
    friend class drains<listener, exports_type>;

    [[nodiscard]] hold_type hold()
    {
        if constexpr (on_program)
            return this->shared_from_this();
        else
            return this;
    }
    /// Calls `f(*this)` on the control executor. Without memory for that, a later handler recovers.
    template <class Hold, class F>
    void post(Hold self, F f, io::handler_memory* memory = nullptr) noexcept
    {
        post_or_recover(control_, std::move(self), std::move(f), memory);
    }

    /// Resumes what an exception has interrupted.
    void recover() noexcept
    {
        try {
            if (state_->stopping && !closing_)
                close_down();
            accepting_.recover();
            if (!ticking_)
                tick();
        } catch (...) {  // the next handler tries again
        }
    }

    [[nodiscard]] bool accepts() const noexcept { return waiting_.accepts() && !state_->stopping; }
    void accept_failed(std::error_code why) { notify::at_accept_error(state_->observer, why); }

    /// Takes a new connection, unless the program's `admit` refuses it.
    void receive(owned_descriptor connected, const protocol_type& protocol, std::size_t address,
                 std::unique_ptr<const established> begun = nullptr)
    {
        socket_type socket{policy_.next_executor()};
        if (const auto failed = assign(socket, std::move(connected), protocol))
            return accept_failed(failed);
        auto peer = peer_of(state_->transport, socket, address);
        if (closing_ || !state_->admits(peer))
            return state_->refuse(peer, closing_ ? errc::server_stopped : errc::admission_refused);
        prepare(state_->transport, socket, address);
        waiting_.push(std::move(socket), std::move(peer), std::move(begun));
        admit_waiting();
    }
    /// Starts sessions of waiting clients while places are free.
    void admit_waiting()
    {
        ends_matter_ = true;
        while (!state_->stopping) {
            auto next = waiting_.next(connections_, time_.now(),
                                      [this](auto& peer, errc why) { state_->refuse(peer, why); });
            if (!next)
                break;
            launch(std::move(*next));
        }
        ends_matter_ = !waiting_.empty() || accepting_.without_acceptor();
    }
    void launch(typename admission_queue<socket_type, peer_type>::arrival client)
    {
        time_.advance();
        auto& s = *state_.share();
        const entry at = connections_.add(
            s.limits.places_per_peer, std::move(client.socket), std::move(client.peer), s.limits,
            s.observer, next_client_id(), time_.clock(), s.stopping, memory_, s.authoriser());
        at->session.begun = std::move(client.begun);
        session_task session{*this, at};
        notify::at_connect(state_->observer, at->session.who);
        arm_tick();
        policy_.launch(at->socket.get_executor(), std::move(session));
    }

    void sweep()
    {
        time_.advance();
        time_.sweep(connections_);
        connections_.evict_stalled(memory_, time_.now(), state_->limits.stall_grace);
        if (closing_ && time_.now() >= grace_end_)
            connections_.cut_all(errc::server_stopped);
        admit_waiting();
        accepting_.run();
        end_if_alone();
    }
    void tick()
    {
        if (state_->stopping && !closing_)
            close_down();
        sweep();
        const bool has_stock = session::block::in_shared_stock() != 0;
        if (!finish_if_empty() && (connections_.count() != 0 || drains_.running() || has_stock))
            arm_tick();
    }
    void arm_tick()
    {
        if (ticking_)
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
        if (std::exchange(closing_, true))
            return;
        accepting_.close();
        state_->transport.close();
        waiting_.clear([this](auto& peer, errc why) { state_->refuse(peer, why); });
        time_.advance();
        grace_end_ = time_.now() + session::ticker::ticks(state_->limits.stop_grace);
        // Each session answers the requests that it has received, then reads the end of its stream.
        connections_.end_of_requests();
        memory_.stop();
        if (!finish_if_empty())
            arm_tick();
    }
    /// A server that listens nowhere stops when the client of its transport has left.
    void end_if_alone()
    {
        if (accepting_.exhausted() && connections_.count() == 0 && waiting_.empty()
            && !state_->stopping.exchange(true))
            close_down();
    }
    /// Also calls `drain` of the backends.
    bool finish_if_empty()
    {
        const bool empty = closing_ && connections_.count() == 0;
        if (finished_ || !drains_.settle(*this, empty) || !empty)
            return finished_;
        finished_ = true;  // once: the last handlers still need the context
        tick_.cancel();
        end_.cancel();
        if constexpr (!on_program)
            state_->control.finish();
        return true;
    }

    // --- on a thread of the session -------------------------------------------------------------

    [[nodiscard]] auto serve(entry at) { return acceptance::serve(*state_.share(), policy_, *at); }
    /// Called when the session of a client has ended.
    void ended(entry at) noexcept
    {
        notify::at_disconnect(state_->observer, at->session.who,
                              at->session.ending.reason(at->session.ended, state_->stopping));
        const bool drains = drains_.left(at->session.order);
        connections_.remove(at);
        if (ends_matter_ || drains || state_->stopping)  // set before a look that still saw `at`
            post(hold(), [](listener& self) {
                self.admit_waiting();
                self.accepting_.run();
                self.end_if_alone();
                self.finish_if_empty();
            });
    }

    const end_mark<State> state_;  // first, so that it is destroyed last
    policy_type policy_;
    session::memory_budget memory_{state_->limits};
    sweeper time_;
    connections_type connections_;
    drains<listener, exports_type> drains_;

    control_executor control_{state_->control.executor()};
    accept_loops<listener, protocol_type, control_executor> accepting_{*this, control_};
    timer_type tick_{control_};
    timer_type end_{control_, timer_type::time_point::max()};
    admission_queue<socket_type, peer_type> waiting_{state_->limits};
    io::handler_memory stop_memory_;  ///< so that a server without memory can stop
    std::uint64_t grace_end_ = 0;     ///< in ticks
    bool closing_ = false;
    std::atomic<bool> finished_{false};
    std::atomic<bool> ends_matter_{false};  ///< clients wait for a place
    std::atomic<bool> ticking_{false};
};

}  // namespace nbd::acceptance
