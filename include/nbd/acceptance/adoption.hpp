// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/sockets.hpp>
#include <nbd/error.hpp>
#include <nbd/vocabulary/established.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>

#include <memory>
#include <system_error>
#include <utility>

namespace nbd::acceptance {

/// Hands a connected socket of the program to a listener, which owns it from the call on.
/// `running`: null if the server was destroyed. `begun`: what was negotiated, if the handshake is
/// over.
/// *Errors*: as server::adopt.
template <class State, class Listener>
[[nodiscard]] std::error_code adopt(const State& state, const std::shared_ptr<Listener>& running,
                                    int connected_socket,
                                    std::unique_ptr<const established> begun = nullptr)
{
    owned_descriptor owned{connected_socket};
    typename State::transport_type::protocol_type::endpoint local;
    if (const auto failed = check_socket(owned.get(), false, local))
        return failed;
    if (!running || !state.running || state.stopping)
        return errc::not_running;
    running->adopt(std::move(owned), local, std::move(begun));
    return {};
}

/// Calls `call(error)`. *Errors*: std::system_error with the text `what`, if it sets `error`.
inline constexpr auto check = [](auto call, const auto& what) {
    std::error_code failed;
    call(failed);
    if (failed)
        throw std::system_error{failed, what};
};

}  // namespace nbd::acceptance
