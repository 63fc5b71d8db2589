// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/threading_policy.hpp>
#include <nbd/threading/awaiting.hpp>
#include <nbd/threading/launch.hpp>

#include <boost/asio/execution/occupancy.hpp>
#include <boost/asio/execution_context.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/query.hpp>
#include <boost/asio/strand.hpp>

#include <concepts>
#include <type_traits>
#include <utility>

namespace nbd {

/// Serves on an executor of the program, such as that of its io_context. The server creates no
/// thread; all its work runs in handlers on that executor.
///
///     boost::asio::io_context io;
///     nbd::server<nbd::unix_transport, my_disk, nbd::on_executor<>> server{
///         io.get_executor(), {.path = "/tmp/disk.sock"}};
///     server.start();
///     io.run();
///
/// `Executor` is a plain executor, `boost::asio::any_io_executor`, or a strand. With a plain
/// executor, a single thread must run its context. If several threads run it, pass a strand, from
/// boost::asio::make_strand: each client then gets its own strand. An executor that reports several
/// threads (boost::asio::thread_pool, system_executor) is refused at compile time without a strand;
/// an io_context, and the executor in an any_io_executor, cannot be checked.
///
/// A backend that blocks delays every other handler of the executor.
/// *Lifetime*: the library never runs the context. The handlers and sessions keep everything that
/// they use alive, so the server may be destroyed at any time, also in a handler. Its clients are
/// then disconnected as by stop(), while the context is run. If no thread runs the context any
/// more, the connections stay open until the context is destroyed, which may happen before or after
/// the server's destruction.
template <class Executor = boost::asio::io_context::executor_type>
class on_executor : public threading::awaiting<Executor> {
    template <class T>
    struct inner {
        using type = T;
    };
    template <class T>
    struct inner<boost::asio::strand<T>> {
        using type = T;
    };

public:
    using executor_type = Executor;
    using inner_executor_type = typename inner<Executor>::type;
    static constexpr bool blocking = false;
    static constexpr bool is_strand = !std::is_same_v<Executor, inner_executor_type>;

    explicit on_executor(Executor runs_on) : executor_{std::move(runs_on)}
    {
        static_assert(
            is_strand || !boost::asio::can_query_v<Executor, boost::asio::execution::occupancy_t>,
            "nbd: this executor has several threads; use a strand: "
            "`nbd::on_executor<boost::asio::strand<Executor>>` and boost::asio::make_strand");
    }

    /// With the executor of a context, such as an io_context.
    template <std::derived_from<boost::asio::execution_context> Context>
        requires requires(Context& c) { Executor{c.get_executor()}; }
    explicit on_executor(Context& context) : on_executor{Executor{context.get_executor()}}
    {
    }

    void start() {}

    [[nodiscard]] executor_type next_executor()
    {
        if constexpr (is_strand)
            return Executor{executor_.get_inner_executor()};
        else
            return executor_;
    }

    template <class Session>
    void launch(const executor_type& executor, Session session) noexcept
    {
        threading::launch_awaited(executor, std::move(session));
    }

    /// Whether the calling thread runs the executor; false if that is unknown (any_io_executor).
    [[nodiscard]] bool runs_here() const
    {
        if constexpr (requires { inner_executor().running_in_this_thread(); })
            return inner_executor().running_in_this_thread();
        else
            return false;
    }
    void join() {}

    /// The executor that was passed.
    [[nodiscard]] const executor_type& get_executor() const noexcept { return executor_; }
    /// The executor under the strand, or the executor itself.
    [[nodiscard]] inner_executor_type inner_executor() const
    {
        if constexpr (is_strand)
            return executor_.get_inner_executor();
        else
            return executor_;
    }

private:
    Executor executor_;
};

}  // namespace nbd
