// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/asynchronous.hpp>
#include <nbd/session/serve.hpp>

#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>

#include <memory>
#include <tuple>
#include <utility>

namespace nbd::session {

/// The session of one client of an asynchronous backend, with an io_context that the calling thread
/// alone runs. It has `get()`, as a blocking task has.
template <class Socket, class Exports, class Observer, class Policy>
class on_private_context {
    using executor_type = boost::asio::io_context::executor_type;
    using protocol_type = typename Socket::protocol_type;

public:
    on_private_context(Socket& socket, Exports& exports, context<Observer>& c, Policy& policy)
        : socket_{socket}, exports_{exports}, context_{c}, policy_{policy}
    {
    }

    /// Returns when the coroutine of the session is destroyed, however it ended, and the context
    /// has no work.
    void get()
    {
        boost::asio::io_context own{1};
        // The same descriptor: the server closes the connection through `socket_`.
        boost::asio::basic_stream_socket<protocol_type, executor_type> stream{
            own, socket_.local_endpoint().protocol(), socket_.native_handle()};
        const auto release = [&stream](void*) {
            boost::system::error_code ignored;
            std::ignore = stream.release(ignored);
        };
        const std::unique_ptr<void, decltype(release)> released{&stream, release};
        // Until the coroutine's frame is destroyed, it counts as work of the context.
        boost::asio::co_spawn(
            own, serve<io::asynchronous<executor_type, true>>(stream, exports_, context_, policy_),
            boost::asio::detached);
        for (;;) {
            try {
                own.run();
                return;
            } catch (...) {  // from a handler of the backend; the session continues
            }
        }
    }

private:
    Socket& socket_;
    Exports& exports_;
    context<Observer>& context_;
    Policy& policy_;
};

}  // namespace nbd::session
