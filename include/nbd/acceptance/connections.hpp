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

    /// `share`: settings.places_per_peer.
    template <class... Args>
    [[nodiscard]] entry add(std::size_t share, Args&&... args)
    {
        std::list<connection_type> made;
        auto& added = made.emplace_back(std::forward<Args>(args)...);
        const std::lock_guard lock{mutex_};
        added.beyond_share = has_at_least(share, of(added.peer));
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
        const auto now = exports::presence::clock::now();
        const std::lock_guard lock{mutex_};
        for (auto& c : connections_) {
            c.look_at_replies();
            if (const auto why = c.overdue(); why != errc{})
                c.cut(why);
            else if (c.session.removed(now))
                c.cut(errc::export_removed);
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

    /// Whether a peer has its share of the places; 0 = no shares.
    [[nodiscard]] bool has_share(const Peer& peer, std::size_t share) const noexcept
    {
        const std::lock_guard lock{mutex_};
        return has_at_least(share, of(peer));
    }
    /// All places are taken and a client of `peer` waits for one: closes a connection by the rule
    /// of settings.max_connections, places_per_peer and places_per_identity, unless a closed one is
    /// about to end.
    /// `idle_grace`: in ticks, 0 = idle connections are not closed. `stall_grace`: in ticks.
    void make_room(const Peer& peer, std::size_t share, std::uint64_t now, std::uint64_t idle_grace,
                   std::uint64_t stall_grace) noexcept
    {
        const rule by{now, idle_grace, stall_grace};
        const std::lock_guard lock{mutex_};
        if (std::any_of(connections_.begin(), connections_.end(),
                        [now](const auto& c) { return c.ending(now); }))
            return;
        if (has_at_least(share, of(peer)))
            evict(of(peer), by);
        else if (!evict_beyond_share(share, by))
            evict([](const auto&) { return true; }, by);
    }

    /// Where clients wait for memory, wakes those that could not be woken, and disconnects one that
    /// holds memory and has been stalled for `grace`: the client that has moved no byte for
    /// longest; otherwise the one that is farthest behind settings.least_transfer_rate.
    void evict_stalled(session::memory_budget& memory, std::uint64_t now,
                       std::chrono::milliseconds grace) noexcept
    {
        memory.retry();
        using pool = session::memory_budget::pool;
        for (const auto p : {pool::working, pool::requests}) {
            if (memory.waited_for(p))
                evict_stalled(p, now, session::ticker::ticks(grace));
        }
    }

private:
    /// Whose turn it is to give way: the connection that has been in some state for longest.
    struct longest {
        connection_type* which = nullptr;
        std::uint64_t since = session::deadline::never;

        void consider(connection_type& c, std::uint64_t its_since) noexcept
        {
            if (its_since < since) {
                since = its_since;
                which = &c;
            }
        }
        [[nodiscard]] bool lasts(std::uint64_t ticks, std::uint64_t now) const noexcept
        {
            return which != nullptr && now >= since && now - since >= ticks;
        }
    };
    struct rule {
        std::uint64_t now;
        std::uint64_t idle_grace;
        std::uint64_t stall_grace;
    };

    /// Clients wait for memory of `p`, see the public function.
    void evict_stalled(session::client_memory::pool p, std::uint64_t now,
                       std::uint64_t ticks) noexcept
    {
        const std::lock_guard lock{mutex_};
        longest silent;
        longest behind;
        for (auto& c : connections_) {
            if (c.session.memory.holds(p) == 0)
                continue;
            // One at a time: memory that is about to be given back is enough for now.
            if (c.ending(now))
                return;
            if (c.cut_for() != errc{})
                continue;
            silent.consider(c, c.silent_since());
            behind.consider(c, c.behind_since());
        }
        if (silent.lasts(ticks, now))
            silent.which->cut(errc::evicted);
        else if (behind.lasts(ticks, now))
            behind.which->cut(errc::evicted);
    }

    [[nodiscard]] static auto of(const Peer& peer) noexcept
    {
        return [&peer](const auto& c) { return same_origin(c.peer, peer); };
    }
    /// Those of clients that have proved the same identity as `which`; none if it has proved none.
    [[nodiscard]] static auto as(const connection_type& which) noexcept
    {
        return [its = which.session.identity()](const auto& c) {
            const auto* const other = c.session.identity();
            return its != nullptr && other != nullptr && same_identity(*its, *other);
        };
    }
    /// Whether `its` selects `n` connections; false if `n` is 0. Looks only as far as it has to.
    template <class Its>
    [[nodiscard]] bool has_at_least(std::size_t n, Its its) const noexcept
    {
        return std::any_of(connections_.begin(), connections_.end(),
                           [&](const auto& c) { return n != 0 && its(c) && --n == 0; });
    }

    /// A peer or an identity that has more than its share gives up one connection.
    bool evict_beyond_share(std::size_t share, const rule& by) noexcept
    {
        return std::any_of(connections_.rbegin(), connections_.rend(), [&](connection_type& c) {
            return c.cut_for() == errc{}
            && (give_up(c, of(c.peer), share, c.beyond_share, by)
                || (c.session.identity() != nullptr
                    && give_up(c, as(c), c.session.limits.places_per_identity, c.beyond_identity,
                               by)));
        });
    }
    /// If `its` selects more than `share` connections, closes one of them: by the rule of `evict`,
    /// otherwise `newest`. `beyond`: whether that may be so; connections may have ended since.
    template <class Its>
    bool give_up(connection_type& newest, Its its, std::size_t share, bool& beyond,
                 const rule& by) noexcept
    {
        beyond = beyond && share != 0 && has_at_least(share + 1, its);
        if (beyond && !evict(its, by))
            newest.cut(errc::evicted);
        return beyond;
    }

    /// Of the connections that `among` selects: the oldest handshake gives way, once it is a second
    /// old; otherwise the connection idle longest, once it has been idle for `idle_grace` (0 =
    /// never); otherwise the client that has moved no byte of a message or of its replies for
    /// longest, once that is `stall_grace`. Others do not: they have requests in flight, or are in
    /// the middle of one.
    template <class Among>
    bool evict(Among among, const rule& by) noexcept
    {
        connection_type* handshake = nullptr;
        longest idle;
        longest silent;
        for (auto& c : connections_) {  // the oldest first
            if (c.cut_for() != errc{} || !among(c))
                continue;
            if (!c.in_handshake()) {
                idle.consider(c, c.idle_since());
                silent.consider(c, c.silent_since());
            } else if (by.now >= c.accepted + session::second && c.stalled_by_client()) {
                handshake = &c;
                break;
            }
        }
        auto* const gives_way = handshake != nullptr                  ? handshake
            : by.idle_grace != 0 && idle.lasts(by.idle_grace, by.now) ? idle.which
            : silent.lasts(by.stall_grace, by.now)                    ? silent.which
                                                                      : nullptr;
        if (gives_way != nullptr)
            gives_way->cut(errc::evicted);
        return gives_way != nullptr;
    }

    mutable std::mutex mutex_;
    std::list<connection_type> connections_;  ///< in the order of their arrival
};

}  // namespace nbd::acceptance
