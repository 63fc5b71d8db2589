// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/asynchronous.hpp>
#include <nbd/session/serve.hpp>

#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include <exception>
#include <memory>
#include <utility>

namespace nbd::session {

/// A client of an asynchronous backend on a thread of its own: its session is awaited on a context
/// that this thread alone runs. Like a blocking task, it has `get()`.
template <class Socket, class Exports, class Observer, class Policy>
class on_private_context {
    using executor_type = boost::asio::io_context::executor_type;
    using protocol_type = typename Socket::protocol_type;

public:
    on_private_context(Socket& socket, Exports& exports, context<Observer>& c, Policy& policy)
        : socket_{socket}, exports_{exports}, context_{c}, policy_{policy}
    {
    }

    void get()
    {
        boost::asio::io_context own{1};
        // The same descriptor; whoever ends the connection from outside still does it by `socket_`.
        boost::asio::basic_stream_socket<protocol_type, executor_type> stream{
            own, socket_.local_endpoint().protocol(), socket_.native_handle()};
        // It is not this stream's to close.
        const auto release = [&stream](void*) {
            boost::system::error_code ignored;
            std::ignore = stream.release(ignored);
        };
        const std::unique_ptr<void, decltype(release)> released{&stream, release};
        bool over = false;
        boost::asio::co_spawn(
            own, serve<io::asynchronous<executor_type>>(stream, exports_, context_, policy_),
            [&over](const std::exception_ptr&) { over = true; });
        while (!over) {
            try {
                own.run();
                own.restart();
            } catch (...) {  // a handler of the backend's own; the session goes on
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
