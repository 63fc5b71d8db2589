// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/error.hpp>
#include <nbd/session/deadline.hpp>
#include <nbd/settings.hpp>
#include <nbd/vocabulary/established.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <utility>

namespace nbd::acceptance {

/// Accepted connections that wait for a place, in order of arrival, and the rule for the places:
/// settings.max_connections, places_per_peer, evict_idle_after and stall_grace.
template <class Socket, class Peer>
class admission_queue {
public:
    struct arrival {
        Socket socket;
        Peer peer;
        std::unique_ptr<const established> begun{};
        std::uint64_t since = session::deadline::never;  ///< the tick when it began to wait
    };

    explicit admission_queue(const settings& limits) noexcept
        : most_{limits.max_connections}, share_{limits.places_per_peer},
          idle_grace_{limits.evict_idle_after.count() <= 0
                          ? 0
                          : session::ticker::ticks(limits.evict_idle_after)},
          stall_grace_{session::ticker::ticks(limits.stall_grace)},
          longest_wait_{limits.handshake_deadline.count() <= 0
                            ? 0
                            : session::ticker::ticks(limits.handshake_deadline)}
    {
    }

    /// Whether another connection may be accepted: not while one waits whose peer has less than its
    /// share, and not while `most_waiting` wait.
    [[nodiscard]] bool accepts() const noexcept
    {
        return !entitled_ && queue_.size() < most_waiting;
    }
    [[nodiscard]] bool empty() const noexcept { return queue_.empty(); }
    void push(Socket socket, Peer peer, std::unique_ptr<const established> begun = nullptr)
    {
        queue_.push_back({std::move(socket), std::move(peer), std::move(begun)});
    }
    /// Closes all, because the server stops. For `refused`, see next().
    template <class Refused>
    void clear(Refused refused)
    {
        close_older_than(0, 0, session::deadline::never, errc::server_stopped, refused);
    }

    /// *Returns* the next connection, if there is a place for it. Otherwise one of `connected` may
    /// be closed for it. Connections of peers that have their share wait behind the others. Those
    /// that have waited for settings.handshake_deadline are closed, or for a second when
    /// `most_waiting` peers with their share wait. `refused(peer, why)` is called for each. `now`:
    /// in ticks.
    template <class Connections, class Refused>
    [[nodiscard]] std::optional<arrival> next(Connections& connected, std::uint64_t now,
                                              Refused refused)
    {
        entitled_ = false;
        if (queue_.empty())
            return std::nullopt;
        if (most_ == 0 || connected.count() < most_) {
            std::optional<arrival> first{std::move(queue_.front())};
            queue_.pop_front();
            return first;
        }
        for (auto& waiting : queue_)
            waiting.since = std::min(waiting.since, now);
        close_older_than(longest_wait_, longest_wait_ != 0 ? 0 : no_limit, now, errc::no_place,
                         refused);
        if (queue_.empty())
            return std::nullopt;
        const auto first = std::find_if(queue_.begin(), queue_.end(), [&](const arrival& a) {
            return !connected.has_share(a.peer, share_);
        });
        entitled_ = first != queue_.end();
        if (entitled_) {
            queue_.splice(queue_.begin(), queue_, first);
        } else {
            close_older_than(session::second, most_waiting - 1, now, errc::too_many_connections,
                             refused);
        }
        connected.make_room(queue_.front().peer, share_, now, idle_grace_, stall_grace_);
        return std::nullopt;
    }

private:
    static constexpr std::size_t most_waiting = 16;

    static constexpr std::size_t no_limit = ~std::size_t{0};

    /// Closes connections that have waited for `ticks`, while more than `least` wait.
    template <class Refused>
    void close_older_than(std::uint64_t ticks, std::size_t least, std::uint64_t now, errc why,
                          Refused& refused)
    {
        for (auto at = queue_.begin(); at != queue_.end() && queue_.size() > least;) {
            if (now < at->since + ticks) {
                ++at;
            } else {
                refused(std::as_const(at->peer), why);
                at = queue_.erase(at);
            }
        }
    }

    const std::size_t most_;
    const std::size_t share_;           ///< of a peer
    const std::uint64_t idle_grace_;    ///< in ticks; 0 = never
    const std::uint64_t stall_grace_;   ///< in ticks
    const std::uint64_t longest_wait_;  ///< in ticks; 0 = no limit
    std::list<arrival> queue_;
    bool entitled_ = false;  ///< the first one's peer has less than its share
};

}  // namespace nbd::acceptance
