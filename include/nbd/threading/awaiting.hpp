// SPDX-License-Identifier: MIT
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace nbd::threading {

/// Asio's types for an awaited backend on a policy's executor, as members of the policy. Asio's own
/// names are for any_io_executor, which costs a co_spawn for each call:
///
///     using policy = nbd::strand_pool;
///
///     policy::awaitable<std::error_code> read(std::uint64_t offset, std::span<std::byte> to)
///     {
///         policy::rebind<boost::asio::steady_timer> timer{
///             co_await boost::asio::this_coro::executor, std::chrono::milliseconds{5}};
///         co_await timer.async_wait(policy::use_awaitable);
///     }
///
/// The types of per_client_threads, strand_pool and on_executor<> are the same.
template <class Executor>
struct awaiting {
    template <class T>
    using awaitable = boost::asio::awaitable<T, Executor>;
    static constexpr boost::asio::use_awaitable_t<Executor> use_awaitable{};
    /// A socket, timer or other object of Asio, with the policy's executor.
    template <class IoObject>
    using rebind = typename IoObject::template rebind_executor<Executor>::other;
};

}  // namespace nbd::threading
