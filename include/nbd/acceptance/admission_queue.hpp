// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/deadline.hpp>
#include <nbd/settings.hpp>

#include <cstdint>
#include <list>
#include <optional>
#include <utility>

namespace nbd::acceptance {

/// Accepted connections that wait for a place, in order of arrival, and the rule of who gets one:
/// settings.max_connections, max_connections_per_peer and evict_idle_after.
template <class Socket, class Peer>
class admission_queue {
public:
    struct arrival {
        Socket socket;
        Peer peer;
    };

    explicit admission_queue(const settings& limits) noexcept
        : most_{limits.max_connections}, most_per_peer_{limits.max_connections_per_peer},
          idle_grace_{limits.evict_idle_after.count() <= 0
                          ? 0
                          : session::ticker::ticks(limits.evict_idle_after)}
    {
    }

    [[nodiscard]] bool empty() const noexcept { return queue_.empty(); }
    void push(Socket socket, Peer peer) { queue_.push_back({std::move(socket), std::move(peer)}); }
    void clear() noexcept { queue_.clear(); }

    /// The next connection, if there is a place for it; otherwise one of `connected` may be told to give way.
    /// `refused()` is called for each connection that is closed because its peer has too many.
    template <class Connections, class Refused>
    [[nodiscard]] std::optional<arrival> next(Connections& connected, std::uint64_t now,
                                              Refused refused)
    {
        while (!queue_.empty()) {
            if (most_per_peer_ != 0
                && !connected.make_room_for(queue_.front().peer, most_per_peer_, now,
                                            idle_grace_)) {
                queue_.pop_front();
                refused();
                continue;
            }
            if (most_ != 0 && connected.count() >= most_) {
                connected.make_room(now, idle_grace_);
                return std::nullopt;
            }
            std::optional<arrival> first{std::move(queue_.front())};
            queue_.pop_front();
            return first;
        }
        return std::nullopt;
    }

private:
    const std::size_t most_;
    const std::size_t most_per_peer_;
    const std::uint64_t idle_grace_;  ///< in ticks; 0 = never
    std::list<arrival> queue_;
};

}  // namespace nbd::acceptance
