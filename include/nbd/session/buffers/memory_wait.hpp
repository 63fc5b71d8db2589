// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/session/buffers/client_memory.hpp>

#include <cstddef>
#include <utility>

namespace nbd::session {

/// The waits of one session for memory, one at a time:
///
///     if (wait.for_work())
///         co_await wait.ended();
///     if (!wait.granted()) ...
///
/// They are not coroutines, so a wait allocates nothing.
/// Thread safety: the session's strand or thread.
/// Lifetime: the stream and the client's memory outlive it. A coroutine that is destroyed while it
/// waits leaves neither a waiter nor a charge behind.
template <class Io>
class memory_wait {
    using pool = client_memory::pool;

public:
    /// Errors: std::bad_alloc.
    template <class Stream>
    memory_wait(Stream& stream, client_memory& memory) : memory_{memory}, wakeup_{stream}
    {
    }
    memory_wait(const memory_wait&) = delete;
    memory_wait& operator=(const memory_wait&) = delete;
    ~memory_wait()
    {
        if (waits_)
            memory_.abandon_wait();
    }

    /// Begins to wait for working memory. True: await `ended`.
    [[nodiscard]] bool for_work() noexcept
    {
        return begin(pool::working, memory_budget::working_bytes);
    }
    /// The same for `n` bytes for a request, at most client_memory::most_for_requests().
    [[nodiscard]] bool for_request(std::size_t n) noexcept { return begin(pool::requests, n); }
    /// Ends early where there is no memory for the wait.
    [[nodiscard]] auto ended() { return wakeup_.wait(); }

    /// Whether working memory was granted. If not, there will be none: the server stops or the
    /// connection is being ended.
    [[nodiscard]] bool granted() noexcept
    {
        return std::exchange(waits_, false) && memory_.end_wait();
    }
    /// The memory for a request; an empty charge in the same case.
    [[nodiscard]] charge request() noexcept
    {
        return granted() ? memory_.granted_request() : charge{};
    }

private:
    [[nodiscard]] bool begin(pool from, std::size_t n) noexcept
    {
        waits_ = true;
        return memory_.begin_wait(
            from, n, [](void* of) { static_cast<wakeup*>(of)->notify(); }, &wakeup_);
    }

    using wakeup = typename Io::wakeup;

    client_memory& memory_;
    wakeup wakeup_;
    bool waits_ = false;
};

}  // namespace nbd::session
