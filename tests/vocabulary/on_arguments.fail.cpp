// SPDX-License-Identifier: MIT
// Wrong arguments of nbd::on.
// expect NO_EXECUTOR: nbd: nbd::on(executor, task) needs a task whose awaitable names the type of that executor
// expect ANOTHER_EXECUTOR: nbd: nbd::on(executor, task) needs a task whose awaitable names the type of that executor
// expect POINTER_TO_CONTEXT: nbd: nbd::on(executor, task) needs a task whose awaitable names the type of that executor
// expect NO_TASK: nbd: the task of nbd::on is a boost::asio::awaitable
#include <nbd/on.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>

#include <string>
#include <tuple>

using io_executor = boost::asio::io_context::executor_type;
using strand = boost::asio::strand<io_executor>;
template <class Executor = io_executor>
using task = boost::asio::awaitable<int, Executor>;

template <class Executor>
task<Executor> five()
{
    co_return 5;
}

void call([[maybe_unused]] boost::asio::io_context& there)
{
#if defined NO_EXECUTOR
    std::ignore = nbd::on(std::string{"there"}, five<io_executor>());
#elif defined ANOTHER_EXECUTOR
    std::ignore = nbd::on<io_executor>(there.get_executor(), five<strand>());
#elif defined POINTER_TO_CONTEXT
    std::ignore = nbd::on(&there, five<io_executor>());
#elif defined NO_TASK
    nbd::on(there.get_executor(), [] { return 5; });
#else
    std::ignore = nbd::on(there, five<io_executor>());
#endif
}
