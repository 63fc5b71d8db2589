// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/owned_context.hpp>

#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/execution/context.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/query.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <type_traits>
#include <utility>

namespace nbd {

/// What nbd::on makes of its arguments.
template <class Home, class T, class Executor>
boost::asio::awaitable<T, Home> await_elsewhere(Executor there,
                                                boost::asio::awaitable<T, Executor> task)
{
    const Home here = co_await boost::asio::this_coro::executor;
    auto owner = owned_context::of(boost::asio::query(here, boost::asio::execution::context));
    constexpr boost::asio::use_awaitable_t<Home> resumes{};
    co_return co_await boost::asio::async_initiate<const boost::asio::use_awaitable_t<Home>,
                                                   typename end_of_task<T>::signature>(
        [&](auto handler) {
            boost::asio::co_spawn(there, std::move(task),
                                  resume_at_home<decltype(handler), Home>{std::move(handler), here,
                                                                          std::move(owner)});
        },
        resumes);
}

/// Runs `task` on another executor and resumes the coroutine that awaits it on its own executor:
///
///     task<std::error_code> read(std::uint64_t offset, std::span<std::byte> to)
///     {
///         co_return co_await nbd::on(store_executor_, fetch(offset, to));
///     }
///
/// For backends that share a connection or a cache which lives on an executor of its own.
/// The first argument is an executor, or a context. It must run one handler at a time: an
/// io_context that one thread runs, or a strand.
/// *Returns*: on `co_await`, what the task returns, which must be default constructible.
/// *Errors*: an exception of the task is rethrown to the coroutine that awaits it. std::bad_alloc.
/// *Thread safety*: from any executor.
/// *Cancellation*: none. The task runs to its end, also where the backend is `cancellable` and the
/// client has left.
/// *Lifetime*: what the call refers to, such as the span of a READ, stays valid until the task has
/// ended. The executor must be run until then. If the server has ended before the task, the
/// coroutine is not resumed: it is destroyed when the task ends or is destroyed.
/// *Cost*: two coroutine frames, and two handlers that are posted.
///
/// The result is an awaitable of the task's executor type. Where the coroutine that awaits it has
/// another executor type, name that: `nbd::on<Home>(executor, task)`.
template <class Home = void, class Where, class T, class TaskExecutor>
[[nodiscard]] boost::asio::awaitable<T,
                                     std::conditional_t<std::is_void_v<Home>, TaskExecutor, Home>>
on(Where&& where, boost::asio::awaitable<T, TaskExecutor> task)
{
    using home = std::conditional_t<std::is_void_v<Home>, TaskExecutor, Home>;
    constexpr bool context = std::is_convertible_v<Where&, boost::asio::execution_context&>;
    constexpr bool executor = std::is_convertible_v<Where, TaskExecutor>;
    static_assert(context || executor,
                  "nbd: nbd::on(executor, task) needs a task whose awaitable names the type of "
                  "that executor, or one that it converts to");
    if constexpr (context)
        return nbd::on<Home>(where.get_executor(), std::move(task));
    else if constexpr (executor)
        return await_elsewhere<home>(TaskExecutor(std::forward<Where>(where)), std::move(task));
    else
        throw 0;
}
template <class Home = void, class Where, class NoTask>
void on(Where&&, NoTask&&) = delete;  // nbd: the task of nbd::on is a boost::asio::awaitable

}  // namespace nbd
