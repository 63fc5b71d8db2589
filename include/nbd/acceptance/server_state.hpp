// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/addresses.hpp>
#include <nbd/acceptance/control.hpp>
#include <nbd/concepts/observer.hpp>
#include <nbd/error.hpp>
#include <nbd/exports/authorisation.hpp>
#include <nbd/session/deadline.hpp>
#include <nbd/settings.hpp>

#include <boost/asio/error.hpp>
#include <boost/system/error_code.hpp>

#include <atomic>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace nbd::acceptance {

/// What a server and its listener share. It holds nothing that belongs to a context of the program,
/// so it may outlive that context.
/// *Thread safety*: the atomic members, `exports` and `observer` from any thread.
template <class Transport, class Policy, class Exports, class Observer>
struct server_state {
    using transport_type = Transport;
    using policy_type = Policy;
    using exports_type = Exports;
    using observer_type = Observer;
    using endpoint_type = typename Transport::protocol_type::endpoint;
    using admission_type = std::function<bool(const typename Transport::peer_type&)>;
    using control_type = std::conditional_t<hosted<Policy>, hosted_control<Policy>, own_control>;

    server_state(std::shared_ptr<Exports> e, settings s, Observer o, Transport t, admission_type a,
                 authorisation by, const Policy& p)
        : exports{std::move(e)}, limits{std::move(s)}, observer{std::move(o)},
          transport{std::move(t)}, admit{std::move(a)}, authorise{std::move(by)}, control{p}
    {
    }

    /// Asks the program. An exception is a refusal.
    [[nodiscard]] bool admits(const typename Transport::peer_type& peer) const noexcept
    {
        try {
            return !admit || admit(peer);
        } catch (...) {
            return false;
        }
    }

    /// *Returns* the program's function, or null.
    [[nodiscard]] const authorisation* authoriser() const noexcept
    {
        return authorise ? &authorise : nullptr;
    }

    /// Tells the observer that a new connection is not served; without memory, not whose it is.
    void refuse(const typename Transport::peer_type& peer, errc why) noexcept
    {
        if constexpr (notify::names_at_accept_error<Observer>) {
            std::string text;
            try {
                text = peer.text();
            } catch (...) {
            }
            notify::at_accept_error(observer, why, text);
        }
    }

    [[nodiscard]] std::vector<endpoint_type> endpoints() const
    {
        std::vector<endpoint_type> all;
        for (const auto& at : listening)
            all.push_back(at.endpoint);
        return all;
    }
    /// The NBD URIs of an export, for each address. *Errors*: std::logic_error before start().
    [[nodiscard]] std::vector<std::string> uris(std::string_view export_name) const
    {
        if (!started)
            throw std::logic_error{"nbd: a server has no URI before start()"};
        std::vector<std::string> all;
        for (const auto& at : listening)
            all.push_back(uri_of(transport, at, export_name));
        return all;
    }
    /// Of async_run.
    [[nodiscard]] boost::system::error_code result() const noexcept
    {
        return cancelled ? boost::asio::error::operation_aborted : boost::system::error_code{};
    }

    const std::shared_ptr<Exports> exports;
    const settings limits;
    [[no_unique_address]] Observer observer;
    Transport transport;
    const admission_type admit;                            ///< may be empty
    const authorisation authorise;                         ///< may be empty
    std::vector<listening_at<endpoint_type>> listening{};  ///< set by start()

    std::atomic<bool> started{false};    ///< start() was called
    std::atomic<bool> running{false};    ///< start() succeeded
    std::atomic<bool> stopping{false};   ///< stop() was called
    std::atomic<bool> cancelled{false};  ///< by the cancellation of async_run
    std::atomic<bool> ended{false};      ///< the listener is gone; may be waited for
    control_type control;
};

/// Calls `call(error)`. *Errors*: std::system_error with the text `what()`.
template <class Call, class What>
void check(Call call, What what)
{
    std::error_code failed;
    call(failed);
    if (failed)
        throw std::system_error{failed, what()};
}

/// Marks the state as ended when it is destroyed.
template <class State>
class end_mark {
public:
    explicit end_mark(std::shared_ptr<State> state) noexcept : state_{std::move(state)} {}
    end_mark(const end_mark&) = delete;
    end_mark& operator=(const end_mark&) = delete;
    ~end_mark()
    {
        state_->ended = true;
        state_->ended.notify_all();
    }
    [[nodiscard]] State* operator->() const noexcept { return state_.get(); }
    [[nodiscard]] const std::shared_ptr<State>& share() const noexcept { return state_; }

private:
    std::shared_ptr<State> state_;
};

}  // namespace nbd::acceptance
