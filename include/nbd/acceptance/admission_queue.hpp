// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/deadline.hpp>
#include <nbd/settings.hpp>

#include <cstdint>
#include <list>
#include <optional>
#include <utility>

namespace nbd::acceptance {

/// Accepted connections that wait for a place, in order of arrival, and the rule for the places:
/// settings.max_connections, places_per_peer and evict_idle_after.
template <class Socket, class Peer>
class admission_queue {
public:
    struct arrival {
        Socket socket;
        Peer peer;
    };

    explicit admission_queue(const settings& limits) noexcept
        : most_{limits.max_connections}, share_{limits.places_per_peer},
          idle_grace_{limits.evict_idle_after.count() <= 0
                          ? 0
                          : session::ticker::ticks(limits.evict_idle_after)}
    {
    }

    [[nodiscard]] bool empty() const noexcept { return queue_.empty(); }
    void push(Socket socket, Peer peer) { queue_.push_back({std::move(socket), std::move(peer)}); }
    void clear() noexcept { queue_.clear(); }

    /// The next connection, if there is a place for it; otherwise one of `connected` may be told to give way.
    /// `refused()` is called for each connection that is closed because its peer has its share of the places.
    template <class Connections, class Refused>
    [[nodiscard]] std::optional<arrival> next(Connections& connected, std::uint64_t now,
                                              Refused refused)
    {
        while (!queue_.empty()) {
            if (most_ == 0 || connected.count() < most_) {
                std::optional<arrival> first{std::move(queue_.front())};
                queue_.pop_front();
                return first;
            }
            if (connected.make_room(queue_.front().peer, share_, now, idle_grace_))
                return std::nullopt;
            queue_.pop_front();
            refused();
        }
        return std::nullopt;
    }

private:
    const std::size_t most_;
    const std::size_t share_;         ///< of a peer
    const std::uint64_t idle_grace_;  ///< in ticks; 0 = never
    std::list<arrival> queue_;
};

}  // namespace nbd::acceptance
