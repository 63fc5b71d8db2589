// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/asynchronous.hpp>
#include <nbd/io/handler_tracker.hpp>
#include <nbd/session/serve.hpp>

#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include <atomic>
#include <chrono>
#include <memory>
#include <tuple>
#include <utility>

namespace nbd::session {

/// The session of one client of an asynchronous backend, with an io_context that the calling thread
/// alone runs. It has `get()`, as a blocking task has. `run_leftovers` needs only this object.
template <class Socket, class Exports, class Observer, class Policy>
class on_private_context {
    using executor_type = boost::asio::io_context::executor_type;
    using protocol_type = typename Socket::protocol_type;

public:
    on_private_context(Socket& socket, Exports& exports, context<Observer>& c, Policy& policy)
        : socket_{socket}, exports_{exports}, context_{c}, policy_{policy}
    {
    }

    /// Returns when the coroutine of the session is destroyed, however it ended.
    void get()
    {
        // The same descriptor: the server closes the connection through `socket_`.
        boost::asio::basic_stream_socket<protocol_type, executor_type> stream{
            own_, socket_.local_endpoint().protocol(), socket_.native_handle()};
        const auto release = [&stream](void*) {
            boost::system::error_code ignored;
            std::ignore = stream.release(ignored);
        };
        const std::unique_ptr<void, decltype(release)> released{&stream, release};
        end_of_session end{own_};
        boost::asio::co_spawn(
            own_, serve<io::asynchronous<executor_type, true>>(stream, exports_, context_, policy_),
            io::tracked_completion{end.begin([](io::handler_tracker& ended) {
                static_cast<end_of_session&>(ended).own.stop();
            })});
        for (;;) {
            try {
                own_.run();
                return;
            } catch (...) {  // from a handler of the backend; the session continues
            }
        }
    }
    /// Runs what the backend has left on the context, such as a timer, until nothing is left or,
    /// once `ending` is true, for about `patience`. The destructor destroys the rest.
    void run_leftovers(const std::atomic<bool>& ending, std::chrono::milliseconds patience)
    {
        constexpr std::chrono::milliseconds slice{200};
        own_.restart();
        for (auto left = patience / slice; left > 0;) {
            try {
                own_.run_for(slice);
            } catch (...) {  // from a handler of the backend
            }
            if (own_.stopped())
                return;
            if (ending)
                --left;
        }
    }

private:
    struct end_of_session : io::handler_tracker {
        explicit end_of_session(boost::asio::io_context& c) : own{c} {}
        boost::asio::io_context& own;
    };

    boost::asio::io_context own_{1};
    Socket& socket_;
    Exports& exports_;
    context<Observer>& context_;
    Policy& policy_;
};

}  // namespace nbd::session
