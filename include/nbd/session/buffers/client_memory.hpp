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
    ~client_memory()
    {
        server_.forget(waiter_);
        give_back(pool::working, holds(pool::working));
    }

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

    /// Waits for working memory. *Returns* false where there will be none: the server stops or the
    /// connection is being ended.
    template <class Io, class Stream>
    [[nodiscard]] typename Io::template task<bool> wait_to_work(Stream& stream)
    {
        const auto granted = co_await wait<Io>(stream, pool::working, memory_budget::working_bytes);
        if (granted)
            hold(pool::working, memory_budget::working_bytes);
        co_return granted;
    }
    /// Waits for `n` bytes for a request, at most most_for_requests(). *Returns* the charge; an
    /// empty one where there will be none.
    template <class Io, class Stream>
    [[nodiscard]] typename Io::template task<charge> wait_for_request(Stream& stream,
                                                                      std::size_t n);

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

    template <class Io, class Stream>
    typename Io::template task<bool> wait(Stream& stream, pool from, std::size_t n)
    {
        using wakeup = typename Io::wakeup;
        wakeup ended{stream};
        waiter_.argument = &ended;
        waiter_.wake = [](void* of) { static_cast<wakeup*>(of)->notify(); };
        // A coroutine that is destroyed while it waits leaves neither a waiter nor a charge behind.
        struct leave_queue {
            client_memory& memory;
            ~leave_queue()
            {
                memory.server_.forget(memory.waiter_);
                if (std::exchange(memory.waiter_.granted, false))
                    memory.server_.give_back(memory.waiter_.from, memory.waiter_.bytes);
            }
        } leave{*this};
        if (server_.wait(waiter_, from, n))
            co_await ended.wait();
        co_return std::exchange(waiter_.granted, false);
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
    charge(client_memory& client, std::size_t bytes) noexcept : client_{&client}, bytes_{bytes} {}

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

template <class Io, class Stream>
typename Io::template task<charge> client_memory::wait_for_request(Stream& stream, std::size_t n)
{
    // One co_return: with two, GCC 12 makes a frame that it cannot destroy.
    const bool granted = co_await wait<Io>(stream, pool::requests, n);
    hold(pool::requests, granted ? n : 0);
    charge made{*this, granted ? n : 0};
    co_return made;
}

}  // namespace nbd::session
