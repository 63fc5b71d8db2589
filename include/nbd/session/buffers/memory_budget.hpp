// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/buffers/block.hpp>
#include <nbd/settings.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <cstddef>
#include <limits>
#include <mutex>
#include <utility>

namespace nbd::session {

/// The memory that the clients of one server may use together: settings.server_memory.
///
/// The budget has two pools. A quarter is working memory: the inbox, the outbox and the small lists
/// of a connection that is not idle, `working_bytes` for each. The rest is request memory: data
/// that do not fit there, charged as a whole before the payload is received or the backend is
/// called. Free blocks in the stocks of threads and what a connection needs at rest are not
/// charged; settings.hpp states their bounds.
///
/// Waiting cannot deadlock. A connection takes working memory first and request memory second. A
/// request that has its charge needs no more memory to end, and deadlines bound how long its client
/// may take, so each charge of the request pool is given back. No charge is larger than its pool.
/// Hence the first waiter for request memory always goes on; hence each connection with working
/// memory becomes idle or ends; hence the first waiter for working memory goes on. A pool serves
/// its waiters in order of arrival.
///
/// Thread safety: any member from any thread. Lifetime: outlives its charges and its waiters.
class memory_budget {
public:
    enum class pool : unsigned char { working, requests };

    /// The charge of a connection that is not idle.
    static constexpr std::size_t working_bytes = std::size_t{512} << 10;
    /// A smaller setting counts as this: one connection, and a request beside it.
    static constexpr std::size_t least_bytes = 4 * working_bytes;
    static constexpr std::size_t no_limit = std::numeric_limits<std::size_t>::max();

    /// A client that waits for memory, or may. One wait at a time.
    struct waiter {
        /// Called once when a wait has ended, under the lock of the budget. May throw where it
        /// finds no memory; it is called again later then.
        void (*wake)(void*) = nullptr;
        void* argument = nullptr;
        std::size_t bytes = 0;
        pool from{};
        bool queued = false;
        bool granted = false;
        bool closed = false;  ///< no wait is granted any more
        waiter* previous = nullptr;
        waiter* next = nullptr;
    };

    /// Reads server_memory and client_memory.
    explicit memory_budget(const settings& limits) noexcept
        : memory_budget{bounded(limits.server_memory), bounded(limits.client_memory)}
    {
    }
    memory_budget(const memory_budget&) = delete;
    memory_budget& operator=(const memory_budget&) = delete;
    ~memory_budget()
    {
        block::keep_less(for_stocks_);
        block::free_shared_stock();
    }

    /// Bytes that the requests of one client may have; so also the largest charge.
    [[nodiscard]] std::size_t requests_of_a_client() const noexcept { return of_a_client_; }
    [[nodiscard]] std::size_t limit(pool p) const noexcept { return of(p).limit; }
    [[nodiscard]] std::size_t used(pool p) const noexcept { return of(p).used.load(); }
    [[nodiscard]] bool waited_for(pool p) const noexcept { return of(p).waiters.load() != 0; }
    /// More than half of the working memory is in use: an idle connection gives its own back. While
    /// it is not, the connection keeps it, which saves two atomic operations for each request at
    /// depth 1.
    [[nodiscard]] bool scarce() const noexcept
    {
        const auto& working = of(pool::working);
        return working.used.load(std::memory_order_relaxed) > working.limit / 2;
    }

    /// Charges `n` bytes. False where they do not fit or others wait already.
    [[nodiscard]] bool take(pool p, std::size_t n) noexcept
    {
        return of(p).waiters.load() == 0 && fit(of(p), n);
    }
    void give_back(pool p, std::size_t n) noexcept
    {
        if (n == 0)
            return;
        of(p).used.fetch_sub(n);
        if (of(p).waiters.load() == 0)
            return;
        const std::lock_guard lock{mutex_};
        serve(of(p));
    }

    /// Queues for `n` bytes, at most the pool's limit. False where the wait was over at once, see
    /// `granted`; else `wake(argument)` is called from any thread when it is.
    [[nodiscard]] bool wait(waiter& w, pool p, std::size_t n) noexcept
    {
        const std::lock_guard lock{mutex_};
        assert(!w.queued && n <= of(p).limit);
        w.bytes = n;
        w.from = p;
        w.granted = false;
        if (w.closed || stopped_)
            return false;
        // Counted before the attempt: whoever gives back after it sees that there is a waiter.
        if (of(p).waiters.fetch_add(1) == 0 && fit(of(p), n)) {
            --of(p).waiters;
            w.granted = true;
            return false;
        }
        append(of(p), w);
        return true;
    }
    /// Ends the present wait, if there is one, and all later ones, with nothing granted.
    void close(waiter& w) noexcept
    {
        const std::lock_guard lock{mutex_};
        if (w.queued && !w.closed)
            ++of(w.from).closed;
        w.closed = true;
        if (w.queued)
            serve(of(w.from));
    }
    /// Ends a wait without waking.
    void forget(waiter& w) noexcept
    {
        const std::lock_guard lock{mutex_};
        if (!w.queued)
            return;
        remove(of(w.from), w);
        serve(of(w.from));
    }
    /// Ends all waits, present and later, with nothing granted.
    void stop() noexcept
    {
        const std::lock_guard lock{mutex_};
        stopped_ = true;
        serve_all();
    }
    /// Wakes waiters that could not be woken for lack of memory, and frees blocks that nobody uses.
    /// The server calls it now and then.
    void retry() noexcept
    {
        block::look_at_shared_stock();
        if (!waited_for(pool::working) && !waited_for(pool::requests))
            return;
        const std::lock_guard lock{mutex_};
        serve_all();
    }

private:
    struct shared {
        std::size_t limit;
        alignas(64) std::atomic<std::size_t> used{0};
        std::atomic<std::size_t> waiters{0};
        std::size_t closed = 0;  ///< waiters in the queue that are closed
        waiter* first = nullptr;
        waiter* last = nullptr;
    };

    memory_budget(std::size_t all, std::size_t of_a_client) noexcept
        : of_a_client_{std::min(of_a_client - working_bytes, all - all / 4)},
          pools_{{{.limit = all / 4}, {.limit = all - all / 4}}},
          for_stocks_{std::min(all, most_for_stocks)}
    {
        block::keep_more(for_stocks_);
    }
    [[nodiscard]] static constexpr std::size_t bounded(std::size_t setting) noexcept
    {
        return setting == 0 ? no_limit : std::max(setting, least_bytes);
    }

    [[nodiscard]] shared& of(pool p) noexcept { return pools_[static_cast<std::size_t>(p)]; }
    [[nodiscard]] const shared& of(pool p) const noexcept
    {
        return pools_[static_cast<std::size_t>(p)];
    }

    [[nodiscard]] static bool fit(shared& s, std::size_t n) noexcept
    {
        auto used = s.used.load();
        do {
            if (n > s.limit - used)
                return false;
        } while (!s.used.compare_exchange_weak(used, used + n));
        return true;
    }

    void serve_all() noexcept
    {
        for (auto& s : pools_)
            serve(s);
    }
    void serve(shared& s) noexcept
    {
        for (auto* w = stopped_ || s.closed != 0 ? s.first : nullptr; w != nullptr;) {
            auto* const next = w->next;
            if (w->closed || stopped_)
                std::ignore = wake(s, *w, false);
            w = next;
        }
        while (!stopped_ && s.first != nullptr && !s.first->closed && fit(s, s.first->bytes)) {
            const auto n = s.first->bytes;
            if (!wake(s, *s.first, true)) {
                s.used.fetch_sub(n);
                return;
            }
        }
    }
    [[nodiscard]] static bool wake(shared& s, waiter& w, bool granted) noexcept
    {
        try {
            remove(s, w);
            w.granted = granted;
            w.wake(w.argument);
            return true;
        } catch (...) {  // no memory for a handler
            prepend(s, w);
            return false;
        }
    }

    static void append(shared& s, waiter& w) noexcept
    {
        w.queued = true;
        w.next = nullptr;
        w.previous = s.last;
        (s.last == nullptr ? s.first : s.last->next) = &w;
        s.last = &w;
    }
    static void prepend(shared& s, waiter& w) noexcept
    {
        w.queued = true;
        w.granted = false;
        ++s.waiters;
        s.closed += w.closed ? 1 : 0;
        w.previous = nullptr;
        w.next = s.first;
        (s.first == nullptr ? s.last : s.first->previous) = &w;
        s.first = &w;
    }
    static void remove(shared& s, waiter& w) noexcept
    {
        (w.previous == nullptr ? s.first : w.previous->next) = w.next;
        (w.next == nullptr ? s.last : w.next->previous) = w.previous;
        w.queued = false;
        --s.waiters;
        s.closed -= w.closed ? 1 : 0;
    }

    /// Without a limit the stocks are bounded, too.
    static constexpr std::size_t most_for_stocks = std::size_t{16} << 30;

    const std::size_t of_a_client_;
    std::mutex mutex_;
    bool stopped_ = false;
    std::array<shared, 2> pools_;
    const std::size_t for_stocks_;
};

}  // namespace nbd::session
