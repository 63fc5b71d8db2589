// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/buffers/memory_budget.hpp>

#include <array>
#include <atomic>
#include <cassert>
#include <cstddef>
#include <utility>

namespace nbd::session {

class charge;

/// What one client has of its server's memory budget, and its wait for more.
/// Thread safety: the session's strand or thread; `close`, `holds` and destroying a charge from any
/// thread.
/// Lifetime: outlives its charges.
class client_memory {
public:
    using pool = memory_budget::pool;

    client_memory(memory_budget& server) noexcept : server_{server} {}
    client_memory(const client_memory&) = delete;
    client_memory& operator=(const client_memory&) = delete;
    ~client_memory() { give_back(pool::working, holds(pool::working)); }

    /// Bytes that the requests of this client may have together.
    [[nodiscard]] std::size_t most_for_requests() const noexcept
    {
        return server_.requests_of_a_client();
    }
    [[nodiscard]] std::size_t holds(pool p) const noexcept
    {
        return held_[static_cast<std::size_t>(p)].load(std::memory_order_relaxed);
    }

    /// The connection has its working memory, or gets it now. False where it has to wait.
    [[nodiscard]] bool begin_work() noexcept
    {
        return holds(pool::working) != 0 || take(pool::working, memory_budget::working_bytes);
    }
    /// The connection is idle and holds no buffers. It keeps its charge unless others need it.
    void rest() noexcept
    {
        if (server_.scarce())
            give_back(pool::working, holds(pool::working));
    }
    [[nodiscard]] bool scarce() const noexcept { return server_.scarce(); }

    /// Charges `n` bytes for a request, into `into`. False where it has to wait, or where `n` is
    /// more than most_for_requests().
    [[nodiscard]] bool begin_request(charge& into, std::size_t n) noexcept;

    /// Another client waits for working memory.
    [[nodiscard]] bool others_wait() const noexcept { return server_.waited_for(pool::working); }

    // --- a wait, see memory_wait ----------------------------------------------------------------

    /// Queues for `n` bytes. False where the wait was over at once; else `wake(argument)` is called
    /// from any thread when it is. Call `end_wait` after it.
    [[nodiscard]] bool begin_wait(pool from, std::size_t n, void (*wake)(void*),
                                  void* argument) noexcept
    {
        waiter_.wake = wake;
        waiter_.argument = argument;
        return server_.wait(waiter_, from, n);
    }
    /// *Returns* whether the bytes were granted; the client holds them then. `wake` is not called
    /// any more.
    [[nodiscard]] bool end_wait() noexcept
    {
        server_.forget(waiter_);
        if (!std::exchange(waiter_.granted, false))
            return false;
        hold(waiter_.from, waiter_.bytes);
        return true;
    }
    /// The same for a wait whose result nobody takes: gives back what was granted.
    void abandon_wait() noexcept
    {
        if (end_wait())
            give_back(waiter_.from, waiter_.bytes);
    }
    /// The request memory that a wait was granted.
    [[nodiscard]] charge granted_request() noexcept;

    /// The connection is being ended: its present wait ends, and no wait is granted any more.
    void close() noexcept { server_.close(waiter_); }

private:
    friend class charge;

    void hold(pool p, std::size_t n) noexcept
    {
        held_[static_cast<std::size_t>(p)].fetch_add(n, std::memory_order_relaxed);
    }
    [[nodiscard]] bool take(pool p, std::size_t n) noexcept
    {
        if (!server_.take(p, n))
            return false;
        hold(p, n);
        return true;
    }
    void give_back(pool p, std::size_t n) noexcept
    {
        held_[static_cast<std::size_t>(p)].fetch_sub(n, std::memory_order_relaxed);
        server_.give_back(p, n);
    }

    memory_budget& server_;
    memory_budget::waiter waiter_;
    std::array<std::atomic<std::size_t>, 2> held_{};
};

/// Request memory that is charged to a client; given back by the destructor.
class charge {
public:
    charge() = default;
    charge(charge&& other) noexcept : client_{other.client_}, bytes_{std::exchange(other.bytes_, 0)}
    {
    }
    charge& operator=(charge&& other) noexcept
    {
        shrink(0);
        client_ = other.client_;
        bytes_ = std::exchange(other.bytes_, 0);
        return *this;
    }
    ~charge() { shrink(0); }

    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
    /// Gives back all but `n` bytes, where it has more.
    void shrink(std::size_t n) noexcept
    {
        if (n < bytes_)
            client_->give_back(client_memory::pool::requests, std::exchange(bytes_, n) - n);
    }

private:
    friend class client_memory;
    charge(client_memory& owner, std::size_t bytes) noexcept : client_{&owner}, bytes_{bytes} {}

    client_memory* client_ = nullptr;
    std::size_t bytes_ = 0;
};

inline bool client_memory::begin_request(charge& into, std::size_t n) noexcept
{
    assert(into.bytes() == 0);
    if (n > most_for_requests() || (n != 0 && !take(pool::requests, n)))
        return false;
    into = charge{*this, n};
    return true;
}

inline charge client_memory::granted_request() noexcept
{
    return {*this, waiter_.bytes};
}

}  // namespace nbd::session
