// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/threading_policy.hpp>
#include <nbd/threading/launch.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>

#include <type_traits>
#include <utility>

namespace nbd {

/// The user's own executor, as of an io_context that the program runs anyway: the server makes no
/// thread, and everything of it is a handler there.
///
///     boost::asio::io_context io;
///     nbd::server<nbd::unix_transport, my_disk, nbd::on_executor<>> server{
///         io.get_executor(), {.path = "/tmp/disk.sock"}};
///     server.start();
///     io.run();
///
/// With a plain executor, one thread runs the context. Where several do, give a strand, made by
/// boost::asio::make_strand: then each client gets a strand of its own.
/// A backend that blocks holds up whatever else runs there. The executor's context must outlive the
/// server. `wait()`, and the destructor, run the context while they wait, if it can be run and
/// nobody else has done it for a second; they return at once on a thread that runs it, where `stop()`
/// only begins to stop: the server must not be destroyed there before its clients have left.
template <class Executor = boost::asio::io_context::executor_type>
class on_executor {
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

    explicit on_executor(Executor executor) : executor_{std::move(executor)} {}

    void start() {}

    [[nodiscard]] executor_type next_executor()
    {
        if constexpr (is_strand)
            return Executor{executor_.get_inner_executor()};
        else
            return executor_;
    }

    template <class MakeTask, class Done>
    void launch(const executor_type& executor, MakeTask make_task, Done done) noexcept
    {
        threading::launch_awaited(executor, make_task, std::move(done));
    }

    [[nodiscard]] bool runs_here() const { return inner_executor().running_in_this_thread(); }
    void join() {}

    /// The executor that the strands are on, if they are; where the server's own handlers run.
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
