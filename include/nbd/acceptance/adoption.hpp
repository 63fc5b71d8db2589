// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/addresses.hpp>
#include <nbd/error.hpp>
#include <nbd/vocabulary/established.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <memory>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

namespace nbd::acceptance {

/// Sockets that the program hands over: it owns them from the call on. Made from one or several.
struct given_sockets {
    given_sockets(int one) { all.emplace_back(one); }
    given_sockets(const std::vector<int>& several)
    {
        all.reserve(several.size());
        for (const int one : several)
            all.emplace_back(one);
    }
    std::vector<owned_descriptor> all;
};

/// Hands a connected socket of the program to a listener, which owns it from the call on.
/// `running`: null if the server was destroyed. `begun`: what was negotiated, if the handshake is
/// over.
/// *Errors*: as server::adopt.
template <class State, class Listener>
[[nodiscard]] std::error_code adopt(const State& state, const std::shared_ptr<Listener>& running,
                                    int connected_socket,
                                    std::optional<established> begun = std::nullopt)
{
    owned_descriptor owned{connected_socket};
    listening_at<typename State::endpoint_type> at;
    if (const auto failed = check_socket_of(state.transport, owned.get(), false, at))
        return failed;
    if (!running || !state.running || state.stopping)
        return errc::not_running;
    running->adopt(std::move(owned), at,
                   begun ? std::make_unique<const established>(std::move(*begun)) : nullptr);
    return {};
}
/// As above. *Errors*: std::system_error.
template <class... Args>
void adopt_or_throw(Args&&... args)
{
    if (const auto failed = adopt(std::forward<Args>(args)...))
        throw std::system_error{failed, "nbd: cannot serve this socket"};
}

}  // namespace nbd::acceptance
