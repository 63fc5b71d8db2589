// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/buffers/memory_budget.hpp>

#include <cassert>
#include <cstddef>
#include <utility>

namespace nbd::session {

/// Bytes that are charged to a pool of a budget; given back by the destructor.
class charge {
public:
    charge() = default;
    /// Bytes that `budget` has granted already.
    charge(memory_budget& budget, memory_budget::pool from, std::size_t bytes) noexcept
        : budget_{&budget}, from_{from}, bytes_{bytes}
    {
    }
    charge(charge&& other) noexcept
        : budget_{other.budget_}, from_{other.from_}, bytes_{std::exchange(other.bytes_, 0)}
    {
    }
    charge& operator=(charge&& other) noexcept
    {
        shrink(0);
        budget_ = other.budget_;
        from_ = other.from_;
        bytes_ = std::exchange(other.bytes_, 0);
        return *this;
    }
    ~charge() { shrink(0); }

    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
    /// Gives back all but `n` bytes, where it has more.
    void shrink(std::size_t n) noexcept
    {
        if (n < bytes_)
            budget_->give_back(from_, std::exchange(bytes_, n) - n);
    }

private:
    memory_budget* budget_ = nullptr;
    memory_budget::pool from_{};
    std::size_t bytes_ = 0;
};

/// What one client has of its server's memory budget, and its wait for more.
/// Thread safety: the session's strand or thread; `close` from any thread.
class client_memory {
    using pool = memory_budget::pool;

public:
    client_memory(memory_budget& server) noexcept : server_{server} {}
    client_memory(const client_memory&) = delete;
    client_memory& operator=(const client_memory&) = delete;
    ~client_memory() { server_.forget(waiter_); }

    /// Bytes that the requests of this client may have together.
    [[nodiscard]] std::size_t most_for_requests() const noexcept
    {
        return server_.requests_of_a_client();
    }

    /// The connection has its working memory, or gets it now. False where it has to wait.
    [[nodiscard]] bool begin_work() noexcept
    {
        if (works())
            return true;
        if (!server_.take(pool::working, memory_budget::working_bytes))
            return false;
        working_ = {server_, pool::working, memory_budget::working_bytes};
        return true;
    }
    [[nodiscard]] bool works() const noexcept { return working_.bytes() != 0; }
    /// The connection is idle and holds no buffers. It keeps its charge while that hinders nobody.
    void rest() noexcept
    {
        if (server_.scarce())
            working_.shrink(0);
    }
    [[nodiscard]] bool scarce() const noexcept { return server_.scarce(); }

    /// Charges a request, into `to`. False where it has to wait.
    [[nodiscard]] bool begin_request(charge& to, std::size_t n) noexcept
    {
        assert(to.bytes() == 0);
        if (n != 0 && !server_.take(pool::requests, n))
            return false;
        to = {server_, pool::requests, n};
        return true;
    }

    /// Waits for working memory. *Returns* false where there will be none: the server stops or the
    /// connection has been ended.
    template <class Io, class Stream>
    [[nodiscard]] typename Io::template task<bool> wait_to_work(Stream& stream)
    {
        auto granted = co_await wait<Io>(stream, pool::working, memory_budget::working_bytes);
        working_ = std::move(granted);
        co_return works();
    }
    /// Waits for `n` bytes for a request, at most most_for_requests(). *Returns* the charge; an empty
    /// one as above.
    template <class Io, class Stream>
    [[nodiscard]] typename Io::template task<charge> wait_for_request(Stream& stream, std::size_t n)
    {
        return wait<Io>(stream, pool::requests, n);
    }

    /// The connection is being ended: no wait of it is granted any more. The present one ends.
    void close() noexcept { server_.close(waiter_); }

private:
    template <class Io, class Stream>
    typename Io::template task<charge> wait(Stream& stream, pool from, std::size_t n)
    {
        using wakeup = typename Io::wakeup;
        wakeup ended{stream};
        waiter_.argument = &ended;
        waiter_.wake = [](void* to) { static_cast<wakeup*>(to)->notify(); };
        // A coroutine that is destroyed while it waits leaves neither a waiter nor a charge behind.
        const struct leave_queue {
            client_memory& memory;
            ~leave_queue()
            {
                memory.server_.forget(memory.waiter_);
                std::ignore = memory.granted();
            }
        } leave{*this};
        if (server_.wait(waiter_, from, n))
            co_await ended.wait();
        co_return granted();
    }

    /// What the last wait was granted, once.
    [[nodiscard]] charge granted() noexcept
    {
        return std::exchange(waiter_.granted, false) ? charge{server_, waiter_.from, waiter_.bytes}
                                                     : charge{};
    }

    memory_budget& server_;
    memory_budget::waiter waiter_;
    charge working_;
};

}  // namespace nbd::session
