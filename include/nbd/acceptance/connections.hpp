// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/connection.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <list>
#include <mutex>
#include <utility>

namespace nbd::acceptance {

/// The connections of a server, and what is done to all or any of them from outside their sessions.
/// Thread safety: any member from any thread. Its mutex also guards the life of the descriptors.
template <class Socket, class Observer>
class connections {
    using connection_type = connection<Socket, Observer>;

public:
    /// Stays valid until it is removed.
    using entry = typename std::list<connection_type>::iterator;

    template <class... Args>
    [[nodiscard]] entry add(Args&&... args)
    {
        std::list<connection_type> made;
        made.emplace_back(std::forward<Args>(args)...);
        const std::lock_guard lock{mutex_};
        connections_.splice(connections_.end(), made);
        return std::prev(connections_.end());
    }
    /// Closes a connection and forgets it.
    void remove(entry at) noexcept
    {
        const std::lock_guard lock{mutex_};
        connections_.erase(at);
    }
    [[nodiscard]] std::size_t count() const noexcept
    {
        const std::lock_guard lock{mutex_};
        return connections_.size();
    }

    /// `ticks` have passed since the last time.
    void cut_overdue(std::uint64_t ticks) noexcept
    {
        const std::lock_guard lock{mutex_};
        for (auto& c : connections_) {
            if (const auto why = c.overdue(); why != errc{})
                c.cut(why);
            else if (c.peer_gone(ticks))
                c.cut(errc::cut_short);
        }
    }
    void cut_all(errc why) noexcept
    {
        const std::lock_guard lock{mutex_};
        for (auto& c : connections_)
            c.cut(why);
    }
    void end_of_requests() noexcept
    {
        const std::lock_guard lock{mutex_};
        for (auto& c : connections_)
            c.end_of_requests();
    }

    /// Somebody waits for a place: the client that has been in its handshake for longest gives its
    /// own up, if it had a second. Clients in transmission keep theirs.
    void evict_longest_handshake(std::uint64_t now) noexcept
    {
        const auto had_a_second = session::ticker::ticks(std::chrono::seconds{1});
        const std::lock_guard lock{mutex_};
        // One at a time: a place that is about to be free is enough for now.
        if (std::any_of(connections_.begin(), connections_.end(),
                        [](const auto& c) { return c.cut_for() != errc{}; }))
            return;
        const auto at = std::find_if(connections_.begin(), connections_.end(), [](auto& c) {
            return c.in_handshake() && c.stalled_by_client();
        });
        if (at != connections_.end() && now >= at->accepted + had_a_second)
            at->cut(errc::evicted);
    }

private:
    mutable std::mutex mutex_;
    std::list<connection_type> connections_;  ///< in the order of their arrival
};

}  // namespace nbd::acceptance
