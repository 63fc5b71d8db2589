// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <cstddef>
#include <utility>

namespace nbd {

/// First in, first out, of things that have a place `behind` for it.
template <class T>
class waiting_line {
public:
    [[nodiscard]] bool empty() const noexcept { return first_ == nullptr; }
    void push(T& last) noexcept
    {
        last.behind = nullptr;
        (empty() ? first_ : last_->behind) = &last;
        last_ = &last;
    }
    /// Requires that it is not empty.
    [[nodiscard]] T& pop() noexcept { return *std::exchange(first_, first_->behind); }

private:
    T* first_ = nullptr;
    T* last_ = nullptr;
};

/// A call that may block, for a policy that has threads for those. It stays until it was run.
struct offloaded_call {
    void (*run)(offloaded_call&) noexcept = nullptr;
    offloaded_call* behind = nullptr;  ///< the policy's
};
/// The calls of one client that wait for a thread; the policy's. Stays until the last was run.
struct offloaded_calls {
    waiting_line<offloaded_call> calls;
    offloaded_calls* behind = nullptr;
};

/// A ThreadingPolicy says where a client lives: on which thread, and in which colour of I/O.
///
///     using executor_type              the concrete executor of the clients' sockets
///     static constexpr bool blocking   true: an operation blocks its thread; false: it is awaited
///     void start()                     makes what it needs; may throw std::system_error
///     executor_type next_executor()    where the next client's socket is to live
///     void launch(executor, make_task, done)
///                                      runs the task that `make_task()` returns to its end, then
///                                      calls `done()` once, in every case; must not throw. A
///                                      blocking task has `get()`, the other is
///                                      boost::asio::awaitable<void, executor_type>.
///     bool runs_here()                 whether the calling thread is one of its own
///     void offload(offloaded_calls& client, offloaded_call&)
///                                      optional, where blocking is false: runs it on a thread that may
///                                      wait, at most so many at a time; may throw std::system_error
///                                      where it can have no thread at all. From any thread
///     void join()                      waits for all that was launched, then ends its threads
///
/// Thread safety: next_executor and launch are called from one thread at a time, join once and after
/// the last launch, runs_here from anywhere.
template <class P>
concept threading_policy = requires(P& p) {
    typename P::executor_type;
    { P::blocking } -> std::convertible_to<bool>;
    p.start();
    { p.next_executor() } -> std::same_as<typename P::executor_type>;
    { p.runs_here() } -> std::same_as<bool>;
    p.join();
};

/// A policy on which backends that block (their promise `blocks`) do not hold up other requests.
template <class P>
concept offloads = !P::blocking
    && requires(P& p, offloaded_calls& client, offloaded_call& c) { p.offload(client, c); };

}  // namespace nbd
