// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/operation.hpp>
#include <nbd/acceptance/sockets.hpp>

#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/basic_waitable_timer.hpp>

#include <atomic>
#include <chrono>
#include <optional>
#include <system_error>
#include <utility>

namespace nbd::acceptance {

/// Accepts connections for a listener while that `accepts()`, and gives them to its `receive`. It
/// is a member of the listener, and is used on the listener's executor.
template <class Listener, class Protocol, class Executor>
class accept_loop {
    using clock_type = std::chrono::steady_clock;

public:
    using acceptor_type = boost::asio::basic_socket_acceptor<Protocol, Executor>;

    accept_loop(Listener& owner, const Executor& runs_on)
        : listener_{owner}, acceptor_{runs_on}, pause_{runs_on}
    {
    }

    [[nodiscard]] acceptor_type& acceptor() noexcept { return acceptor_; }
    /// An accept, or a pause, is pending.
    [[nodiscard]] bool pending() const noexcept { return pending_; }

    /// Accepts from now on, unless it does already.
    void run()
    {
        if (pending_ || !acceptor_.is_open() || !listener_.accepts())
            return;
        acceptor_.async_wait(
            acceptor_type::wait_read,
            operation{listener_, pending_, [this](Listener&, const std::error_code& failed) {
                          if (!failed)
                              accept_ready();
                      }});
    }
    /// Without descriptors or memory, accept fails at once and repeatedly; a pause lets clients
    /// return some. A loop that is closed, because start() failed, does not begin again.
    void pause()
    {
        if (!acceptor_.is_open())
            return;
        pause_.expires_after(std::chrono::milliseconds{100});
        pause_.async_wait(
            operation{listener_, pending_, [this](Listener&, const std::error_code& cancelled) {
                          if (!cancelled)
                              run();
                      }});
    }
    void close()
    {
        boost::system::error_code ignored;
        acceptor_.close(ignored);
        pause_.cancel();
    }

private:
    /// Accepts a few connections, so that other handlers run in between.
    void accept_ready()
    {
        if (!protocol_)
            protocol_ = acceptor_.local_endpoint().protocol();
        for (int i = 0; i < 16 && acceptor_.is_open() && listener_.accepts(); ++i) {
            std::error_code failed;
            owned_descriptor accepted{accept_connection(acceptor_.native_handle(), failed)};
            if (failed) {
                listener_.accept_failed(failed);
                pause();
                return;
            }
            if (accepted.get() < 0)
                break;
            listener_.receive(std::move(accepted), *protocol_);
        }
        run();
    }

    Listener& listener_;
    acceptor_type acceptor_;
    std::optional<Protocol> protocol_;
    boost::asio::basic_waitable_timer<clock_type, boost::asio::wait_traits<clock_type>, Executor>
        pause_;
    std::atomic<bool> pending_{false};
};

}  // namespace nbd::acceptance
