// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/operation.hpp>
#include <nbd/acceptance/sockets.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/post.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <optional>
#include <system_error>
#include <utility>

namespace nbd::acceptance {

/// Accepts connections for a listener while that `accepts()`, and gives them to its `receive`; or
/// gives it one that the transport had before. It belongs to the listener, and is used on the
/// listener's executor.
template <class Listener, class Protocol, class Executor>
class accept_loop {
    using clock_type = std::chrono::steady_clock;

public:
    using acceptor_type = boost::asio::basic_socket_acceptor<Protocol, Executor>;

    /// `address`: the number of the transport's address.
    accept_loop(Listener& owner, const Executor& runs_on, std::size_t address)
        : listener_{owner}, address_{address}, acceptor_{runs_on}, pause_{runs_on}
    {
    }

    [[nodiscard]] acceptor_type& acceptor() noexcept { return acceptor_; }
    [[nodiscard]] std::size_t address() const noexcept { return address_; }
    /// There is an acceptor, or a connection that was not received yet.
    [[nodiscard]] bool is_open() const noexcept { return acceptor_.is_open() || connected_; }

    /// Instead of an acceptor: a connection for `run`. *Errors*: as check_socket.
    [[nodiscard]] std::error_code take(owned_descriptor connected)
    {
        typename Protocol::endpoint local;
        if (const auto failed = check_socket(connected.get(), false, local))
            return failed;
        protocol_ = local.protocol();
        connected_.emplace(std::move(connected));
        return {};
    }

    /// Accepts from now on, unless it does already.
    void run()
    {
        if (pending_ || !is_open() || !listener_.accepts())
            return;
        if (connected_)
            return boost::asio::post(
                acceptor_.get_executor(),
                operation{listener_, pending_, [this](Listener&) { receive_connected(); }});
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
        if (!is_open())
            return;
        pause_.expires_after(std::chrono::milliseconds{100});
        pause_.async_wait(
            operation{listener_, pending_, [this](Listener&, const std::error_code& cancelled) {
                          if (!cancelled)
                              run();
                      }});
    }
    /// Pauses if an exception has interrupted the loop.
    void recover()
    {
        if (pending_ || !is_open() || !listener_.accepts())
            return;
        listener_.accept_failed(std::make_error_code(std::errc::not_enough_memory));
        pause();
    }
    void close()
    {
        boost::system::error_code ignored;
        acceptor_.close(ignored);
        connected_.reset();
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
            listener_.receive(std::move(accepted), *protocol_, address_);
        }
        run();
    }
    void receive_connected()
    {
        if (!connected_)  // closed meanwhile
            return;
        owned_descriptor client{std::move(*connected_)};
        connected_.reset();
        listener_.receive(std::move(client), *protocol_, address_);
        listener_.end_if_alone();
    }

    Listener& listener_;
    const std::size_t address_;
    std::optional<owned_descriptor> connected_;
    acceptor_type acceptor_;
    std::optional<Protocol> protocol_;
    boost::asio::basic_waitable_timer<clock_type, boost::asio::wait_traits<clock_type>, Executor>
        pause_;
    std::atomic<bool> pending_{false};
};

}  // namespace nbd::acceptance
