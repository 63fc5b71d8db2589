// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/asynchronous.hpp>
#include <nbd/io/handler_tracker.hpp>
#include <nbd/session/serve.hpp>
#include <nbd/vocabulary/owned_context.hpp>

#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include <atomic>
#include <chrono>
#include <memory>
#include <tuple>
#include <utility>

namespace nbd::session {

/// An io_context that the calling thread alone runs, for one coroutine and what it leaves.
class private_context {
public:
    using executor_type = boost::asio::io_context::executor_type;

    private_context() = default;
    private_context(const private_context&) = delete;
    private_context& operator=(const private_context&) = delete;
    ~private_context() { own_->leave(); }

    /// Runs what the backend has left on the context, such as a timer, until nothing is left or,
    /// once `ending` is true, for about `patience`. The destructor destroys the rest.
    void run_leftovers(const std::atomic<bool>& ending, std::chrono::milliseconds patience)
    {
        constexpr std::chrono::milliseconds slice{200};
        const owned_context::scope runs{*own_};
        auto& context = own_->context;
        context.restart();
        for (auto left = patience / slice; left > 0;) {
            try {
                context.run_for(slice);
            } catch (...) {  // from a handler of the backend
            }
            if (context.stopped())
                return;
            if (ending)
                --left;
        }
    }

protected:
    /// Returns when the coroutine is destroyed, however it ended.
    template <class Coroutine>
    void run(Coroutine coroutine)
    {
        const owned_context::scope runs{*own_};
        auto& context = own_->context;
        end_of_coroutine end{context};
        io::tracked_completion completion{end.begin(
            [](io::handler_tracker& t) { static_cast<end_of_coroutine&>(t).own.stop(); })};
        // See threading::launch_awaited.
        boost::asio::post(context, [&] {
            boost::asio::co_spawn(context, std::move(coroutine), std::move(completion));
        });
        for (;;) {
            try {
                context.run();
                return;
            } catch (...) {  // from a handler of the backend; the coroutine continues
            }
        }
    }

    const std::shared_ptr<owned_context> own_ = std::make_shared<owned_context>();

private:
    struct end_of_coroutine : io::handler_tracker {
        explicit end_of_coroutine(boost::asio::io_context& c) : own{c} {}
        boost::asio::io_context& own;
    };
};

/// The session of one client of an asynchronous backend. It has `get()`, as a blocking task has.
/// `run_leftovers` needs only this object.
template <class Socket, class Exports, class Observer, class Policy, class Transport, class Peer>
class on_private_context : public private_context {
    using protocol_type = typename Socket::protocol_type;

public:
    on_private_context(Socket& socket, Exports& exports, context<Observer>& c, Policy& policy,
                       const Transport& secures, const Peer& peer)
        : socket_{socket}, exports_{exports}, context_{c}, policy_{policy}, transport_{secures},
          peer_{peer}
    {
    }

    /// Returns when the coroutine of the session is destroyed, however it ended.
    void get()
    {
        // The same descriptor: the server closes the connection through `socket_`.
        boost::asio::basic_stream_socket<protocol_type, executor_type> stream{
            own_->context, socket_.local_endpoint().protocol(), socket_.native_handle()};
        const auto release = [&stream](void*) {
            boost::system::error_code ignored;
            std::ignore = stream.release(ignored);
        };
        const std::unique_ptr<void, decltype(release)> released{&stream, release};
        run(serve<io::asynchronous<executor_type, true>>(stream, exports_, context_, policy_,
                                                         transport_, peer_));
    }

private:
    Socket& socket_;
    Exports& exports_;
    context<Observer>& context_;
    Policy& policy_;
    const Transport& transport_;
    const Peer& peer_;
};

}  // namespace nbd::session
