// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/connection.hpp>
#include <nbd/acceptance/connection_info.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <list>
#include <mutex>
#include <utility>
#include <vector>

namespace nbd::acceptance {

/// The connections of a server.
/// *Thread safety*: any member from any thread. Its mutex also guards the life of the descriptors.
template <class Socket, class Peer, class Observer>
class connections {
    using connection_type = connection<Socket, Peer, Observer>;

public:
    /// Valid until it is removed.
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
    /// Closes the socket.
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
    [[nodiscard]] std::vector<connection_info> list() const
    {
        std::vector<connection_info> all;
        const std::lock_guard lock{mutex_};
        all.reserve(connections_.size());
        for (const auto& c : connections_)
            all.push_back(c.info());
        return all;
    }

    /// `ticks`: since the last call.
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
    /// *Returns*: whether there is such a connection.
    bool cut(std::uint64_t id, errc why) noexcept
    {
        const std::lock_guard lock{mutex_};
        const auto at = std::find_if(connections_.begin(), connections_.end(),
                                     [id](const auto& c) { return c.session.who.id == id; });
        if (at == connections_.end())
            return false;
        at->cut(why);
        return true;
    }
    void end_of_requests() noexcept
    {
        const std::lock_guard lock{mutex_};
        for (auto& c : connections_)
            c.end_of_requests();
    }

    /// A client waits for a place: closes the connection that gives way, unless one that was closed still
    /// ends. The oldest handshake gives way first, once it is a second old; then the connection idle longest,
    /// once it has been idle for `idle_grace` ticks (0 = never). A connection with requests in flight, or in
    /// the middle of one, keeps its place.
    void make_room(std::uint64_t now, std::uint64_t idle_grace) noexcept
    {
        const std::lock_guard lock{mutex_};
        if (std::none_of(connections_.begin(), connections_.end(),
                         [](const auto& c) { return c.cut_for() != errc{}; }))
            evict([](const auto&) { return true; }, now, idle_grace);
    }
    /// As make_room, among the connections of one peer, if these are `most` or more.
    /// *Returns*: whether the peer may have another connection.
    [[nodiscard]] bool make_room_for(const Peer& peer, std::size_t most, std::uint64_t now,
                                     std::uint64_t idle_grace) noexcept
    {
        const auto of_peer = [&peer](const auto& c) {
            return c.cut_for() == errc{} && same_origin(c.peer, peer);
        };
        const std::lock_guard lock{mutex_};
        const auto have = std::count_if(connections_.begin(), connections_.end(), of_peer);
        return static_cast<std::size_t>(have) < most || evict(of_peer, now, idle_grace);
    }

    /// Where clients wait for memory, wakes those that could not be woken, and disconnects the client stalled
    /// longest, if it has been for `grace`.
    void evict_stalled(session::memory_budget& memory, std::uint64_t now,
                       std::chrono::milliseconds grace) noexcept
    {
        memory.retry();
        using pool = session::memory_budget::pool;
        for (const auto p : {pool::working, pool::requests}) {
            if (memory.waited_for(p))
                evict_longest_stalled(p, now, session::ticker::ticks(grace));
        }
    }

private:
    /// Clients wait for memory of `p`: of the clients that hold some and have been stalled for `ticks`, the one
    /// stalled longest is disconnected.
    void evict_longest_stalled(session::client_memory::pool p, std::uint64_t now,
                               std::uint64_t ticks) noexcept
    {
        const std::lock_guard lock{mutex_};
        connection_type* longest = nullptr;
        std::uint64_t since = session::deadline::never;
        for (auto& c : connections_) {
            if (c.session.memory.holds(p) == 0)
                continue;
            // One at a time: memory that is about to be given back is enough for now.
            if (c.cut_for() != errc{})
                return;
            if (const auto stalled = c.stalled_since(); stalled < since) {
                since = stalled;
                longest = &c;
            }
        }
        if (longest != nullptr && now >= since && now - since >= ticks)
            longest->cut(errc::evicted);
    }

    template <class Among>
    bool evict(Among among, std::uint64_t now, std::uint64_t idle_grace) noexcept
    {
        const auto second = session::ticker::ticks(std::chrono::seconds{1});
        connection_type* gives_way = nullptr;
        std::uint64_t longest = session::deadline::never;
        for (auto& c : connections_) {  // the oldest first
            if (!among(c))
                continue;
            if (c.in_handshake()) {
                if (now >= c.accepted + second && c.stalled_by_client()) {
                    gives_way = &c;
                    break;
                }
            } else if (const auto since = c.idle_since();
                       since < longest && idle_grace != 0 && now >= since + idle_grace) {
                gives_way = &c;
                longest = since;
            }
        }
        if (gives_way != nullptr)
            gives_way->cut(errc::evicted);
        return gives_way != nullptr;
    }

    mutable std::mutex mutex_;
    std::list<connection_type> connections_;  ///< in the order of their arrival
};

}  // namespace nbd::acceptance
