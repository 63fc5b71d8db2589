// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/connections.hpp>
#include <nbd/acceptance/control.hpp>
#include <nbd/acceptance/in_progress.hpp>
#include <nbd/error.hpp>
#include <nbd/io/asynchronous.hpp>
#include <nbd/io/blocking.hpp>
#include <nbd/session/private_context.hpp>
#include <nbd/session/serve.hpp>
#include <nbd/settings.hpp>

#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <new>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/time.h>

namespace nbd::acceptance {

/// Where clients come and go: accepts them, entries each on the threading policy, cuts those that
/// overstay a deadline, and shows all of them out when the server stops. All of that is the handlers
/// of its control, which sleeps in between; the sessions run on the policy.
template <class Transport, class Policy, class Exports, class Observer>
class listener {
    static constexpr bool hosted = requires(Policy& p) { p.inner_executor(); };
    using control_type = std::conditional_t<hosted, hosted_control<Policy>, own_control<Policy>>;
    using control_executor = typename control_type::executor_type;
    using protocol_type = typename Transport::protocol_type;
    using acceptor_type = boost::asio::basic_socket_acceptor<protocol_type, control_executor>;
    using timer_type =
        boost::asio::basic_waitable_timer<std::chrono::steady_clock,
                                          boost::asio::wait_traits<std::chrono::steady_clock>,
                                          control_executor>;
    using executor_type = typename Policy::executor_type;
    using socket_type = boost::asio::basic_stream_socket<protocol_type, executor_type>;
    static constexpr bool waits = asynchronous<typename Exports::opened::backend_type>;
    using io_type =
        std::conditional_t<Policy::blocking, io::blocking, io::asynchronous<executor_type>>;

public:
    using endpoint_type = typename protocol_type::endpoint;

    listener(Transport& transport, Policy& policy, Exports& exports, const settings& limits,
             Observer& observer)
        : transport_{transport}, policy_{policy}, exports_{exports}, limits_{limits},
          observer_{observer}
    {
    }
    listener(const listener&) = delete;
    listener& operator=(const listener&) = delete;
    ~listener() { stop(); }

    [[nodiscard]] std::error_code start()
    {
        if (started_.exchange(true))
            return errc::started_before;
        if (const auto failed = transport_.listen(acceptor_))
            return failed;
        ::fcntl(acceptor_.native_handle(), F_SETFD, FD_CLOEXEC);
        endpoint_ = acceptor_.local_endpoint();
        try {
            policy_.start();
            accept();
            control_.start([this] { carry_on(); });
        } catch (...) {  // no thread or no descriptor to be had
            const auto why = current_error();
            boost::system::error_code ignored;
            acceptor_.close(ignored);
            transport_.close();
            policy_.join();
            return why;
        }
        if (stopping_)
            close_once();
        return {};
    }

    [[nodiscard]] const endpoint_type& local_endpoint() const noexcept { return endpoint_; }

    void stop()
    {
        if (!stopping_.exchange(true) && control_.started())
            close_once();
        wait();
    }

    void wait() { control_.wait(); }

private:
    using connections_type = connections<socket_type, Observer>;
    using entry = typename connections_type::entry;

    void close_once()
    {
        if (!closing_.exchange(true))
            boost::asio::post(control_.executor(),
                              [this, held = control_.hold()] { close_down(); });
    }

    // --- on the control ------------------------------------------------------------------

    /// Takes up what an exception may have left undone.
    void carry_on() noexcept
    {
        try {
            if (!accepting_ && !waiting_ && !stopping_.load(std::memory_order_relaxed))
                accept_later(std::make_error_code(std::errc::not_enough_memory));
            tick();
        } catch (...) {  // the next tick or the next client takes it up
        }
    }

    void accept()
    {
        try {
            acceptor_.async_accept(
                policy_.next_executor(),
                [this, held = control_.hold(), underway = in_progress{accepting_}](
                    const boost::system::error_code& error, socket_type socket) {
                    accepted(error, std::move(socket));
                });
        } catch (...) {  // out of what a socket needs
            accept_later(current_error());
        }
    }

    /// Out of descriptors or memory, accept fails at once and for ever; a pause lets others give
    /// theirs back.
    void accept_later(std::error_code why)
    {
        notify::at_accept_error(observer_, why);
        pause_.expires_after(std::chrono::milliseconds{100});
        pause_.async_wait(
            [this, held = control_.hold()](const boost::system::error_code& cancelled) {
                if (!cancelled)
                    accept();
            });
    }

    void accepted(const boost::system::error_code& error, socket_type socket)
    {
        if (stopping_.load(std::memory_order_relaxed))
            return;
        if (error) {
            accept_later(error);
            return;
        }
        ::fcntl(socket.native_handle(), F_SETFD, FD_CLOEXEC);
        transport_.prepare(socket);
        waiting_.emplace(std::move(socket));
        admit_next();
    }

    /// Seats the client that waits, if there is room, and then accepts the next. At the limit one
    /// client waits here and the others in the backlog.
    void admit_next()
    {
        if (!waiting_ || stopping_.load(std::memory_order_relaxed))
            return;
        if (limits_.max_connections != 0 && connections_.count() >= limits_.max_connections) {
            connections_.evict_longest_handshake(clock_.now());
            return;
        }
        auto socket = std::move(*waiting_);
        waiting_.reset();
        try {
            launch(std::move(socket));
        } catch (const std::bad_alloc&) {  // this client finds its connection closed
        }
        accept();
    }

    void launch(socket_type socket)
    {
        clock_.advance_to(elapsed());
        client who{.id = ++last_id_, .peer = transport_.peer(socket)};
        const auto executor = socket.get_executor();
        const entry at = connections_.add(std::move(socket), limits_, observer_, std::move(who),
                                          clock_, stopping_, memory_);
        if constexpr (Policy::blocking && !waits) {
            // A send that blocks says now and then how far it has come, so that a slow reader is
            // told from one that does not read.
            const ::timeval now_and_then{.tv_sec = 1, .tv_usec = 0};
            ::setsockopt(at->socket.native_handle(), SOL_SOCKET, SO_SNDTIMEO, &now_and_then,
                         sizeof(now_and_then));
        }
        notify::at_connect(observer_, at->session.who);
        try {
            if (!ticking_)
                tick();
        } catch (...) {  // the next client starts it
            ticking_ = false;
        }
        policy_.launch(
            executor,
            [this, at] {
                if constexpr (Policy::blocking && waits)
                    return session::on_private_context{at->socket, exports_, at->session, policy_};
                else
                    return session::serve<io_type>(at->socket, exports_, at->session, policy_);
            },
            [this, at] { ended(at); });
    }

    /// Moves the time on and cuts who is overdue, as long as there is anybody.
    void tick()
    {
        clock_.advance_to(elapsed());
        memory_.retry();
        const auto clients = connections_.count();
        // To look at thousands takes its time, so they are looked at less often.
        const std::uint64_t often = 1 + std::min<std::uint64_t>(clients / 2500, 7);
        if (clock_.now() - swept_ >= often) {
            connections_.cut_overdue(often);
            swept_ = clock_.now();
        }
        ticking_ = clients != 0;
        admit_next();
        finish_if_empty();
        if (!ticking_)
            return;
        tick_.expires_after(session::ticker::tick);
        tick_.async_wait(
            [this, held = control_.hold()](const boost::system::error_code& cancelled) {
                if (!cancelled)
                    tick();
            });
    }

    void close_down()
    {
        boost::system::error_code ignored;
        acceptor_.close(ignored);
        transport_.close();
        waiting_.reset();
        pause_.cancel();
        // What was received is finished and answered; then each session finds the end of its stream.
        connections_.end_of_requests();
        memory_.stop();
        pause_.expires_after(
            session::saturated<std::chrono::steady_clock::duration>(limits_.stop_grace));
        pause_.async_wait(
            [this, held = control_.hold()](const boost::system::error_code& cancelled) {
                if (!cancelled)
                    connections_.cut_all(errc::server_stopped);
            });
        finish_if_empty();
    }

    void finish_if_empty()
    {
        if (!stopping_.load(std::memory_order_relaxed) || connections_.count() != 0)
            return;
        pause_.cancel();
        tick_.cancel();
        control_.finish();
    }

    // --- on any thread --------------------------------------------------------------------------

    /// A session has ended; on its own thread.
    void ended(entry at) noexcept
    {
        std::error_code why = at->session.ended;
        if (const auto by_server = at->cut_for(); by_server != errc{})
            why = by_server;
        else if (stopping_.load(std::memory_order_relaxed) && (!why || why == errc::cut_short))
            why = errc::server_stopped;
        notify::at_disconnect(observer_, at->session.who, why);
        auto hold = control_.hold();  // or the server could end between the two
        connections_.remove(at);
        try {
            boost::asio::post(control_.executor(), [this, held = std::move(hold)] {
                admit_next();
                finish_if_empty();
            });
        } catch (...) {  // no memory: the next tick does it
        }
    }

    [[nodiscard]] std::uint64_t elapsed() const
    {
        return static_cast<std::uint64_t>((std::chrono::steady_clock::now() - epoch_)
                                          / session::ticker::tick);
    }

    Transport& transport_;
    Policy& policy_;
    Exports& exports_;
    const settings& limits_;
    Observer& observer_;

    session::memory_budget memory_{limits_};
    session::ticker clock_;
    const std::chrono::steady_clock::time_point epoch_ = std::chrono::steady_clock::now();
    std::atomic<bool> started_{false};
    std::atomic<bool> stopping_{false};
    std::atomic<bool> closing_{false};

    connections_type connections_;

    control_type control_{policy_};
    acceptor_type acceptor_{control_.executor()};
    timer_type tick_{control_.executor()};
    timer_type pause_{control_.executor()};
    std::optional<socket_type> waiting_;
    std::uint64_t last_id_ = 0;
    bool accepting_ = false;
    bool ticking_ = false;
    std::uint64_t swept_ = 0;  ///< in ticks
    endpoint_type endpoint_;
};

}  // namespace nbd::acceptance
