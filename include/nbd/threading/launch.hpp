// SPDX-License-Identifier: MIT
#pragma once

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>

#include <chrono>
#include <csignal>
#include <utility>

/// Functions that several policies use.
namespace nbd::threading {

/// How long a policy that joins its threads runs what backends have left on their clients'
/// executors, such as a timer or a detached coroutine, after the last session has ended.
inline constexpr std::chrono::seconds time_for_leftovers{1};

/// Blocks SIGPIPE on the calling thread, so that a write to a closed connection returns an error
/// code.
inline void block_sigpipe() noexcept
{
    ::sigset_t pipe;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
}

/// Implements `launch` for a policy with asynchronous I/O.
///
/// The frame of the coroutine owns `session`. If the initiation of an operation throws, Asio
/// destroys the coroutine by a post, which must not fail, and does not call its completion handler;
/// the destructor of `session` runs even then. So the coroutine is started on its executor, where
/// its first step needs no memory.
template <class Executor, class Session>
void launch_awaited(const Executor& executor, Session session) noexcept
{
    try {
        boost::asio::post(executor, [executor, session = std::move(session)]() mutable noexcept {
            try {
                boost::asio::co_spawn(executor, std::move(session), boost::asio::detached);
            } catch (...) {  // no memory: the destructor of `session` reports the end
            }
        });
    } catch (...) {  // as above
    }
}

}  // namespace nbd::threading
