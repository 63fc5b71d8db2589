// SPDX-License-Identifier: MIT
#pragma once

#include <boost/asio/co_spawn.hpp>

#include <csignal>
#include <exception>

/// What the policies have in common.
namespace nbd::threading {

/// Whom a client has left, the calling thread finds out by an error code, and not by a signal.
inline void block_sigpipe() noexcept
{
    ::sigset_t pipe;
    sigemptyset(&pipe);
    sigaddset(&pipe, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &pipe, nullptr);
}

/// The `launch` of a policy whose tasks are awaited.
template <class Executor, class MakeTask, class Done>
void launch_awaited(const Executor& executor, MakeTask& make_task, Done done) noexcept
{
    try {
        boost::asio::co_spawn(executor, make_task(),
                              [done](const std::exception_ptr&) mutable { done(); });
    } catch (...) {  // no memory for a session: the client is let go
        done();
    }
}

}  // namespace nbd::threading
