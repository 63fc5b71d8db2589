// SPDX-License-Identifier: MIT
#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>

#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>

namespace nbd::acceptance {

/// A timer on an executor.
template <class Executor>
using control_timer = typename boost::asio::steady_timer::rebind_executor<Executor>::other;

/// The context of a listener's handlers, and its thread, where the policy has threads of its own.
/// The thread also runs completion handlers of the program that have no executor, so it lives until
/// `end`.
/// *Thread safety*: any member from any thread, unless it says otherwise.
class own_control {
public:
    using executor_type = boost::asio::io_context::executor_type;

    template <class Policy>
    explicit own_control(const Policy&)
    {
    }

    [[nodiscard]] executor_type executor() noexcept { return context_.get_executor(); }

    /// Starts the thread. It runs handlers until `finish`, calls `finished()`, and runs handlers
    /// until `end` was called and none is left. `owner` keeps this object alive for the thread.
    /// *Errors*: std::system_error where the system has no more threads.
    template <class Finished>
    void start(std::shared_ptr<void> owner, Finished finished)
    {
        const std::lock_guard lock{mutex_};
        launch(std::move(owner), std::move(finished));
    }
    /// Starts the thread if it does not exist.
    void start(std::shared_ptr<void> owner)
    {
        const std::lock_guard lock{mutex_};
        if (!thread_.joinable())
            launch(std::move(owner), [] {});
    }
    void finish() { context_.stop(); }
    /// Runs the handlers that are ready. Only where `finish` was called, or without a thread.
    void run_ready()
    {
        context_.restart();
        run([this] { context_.poll(); });
    }
    /// Lets the thread end, and waits for it, except on a thread of the server. Once, by one
    /// thread.
    void end(bool on_own_thread)
    {
        guard_.reset();
        const std::lock_guard lock{mutex_};
        if (!thread_.joinable())
            return;
        if (on_own_thread)
            thread_.detach();
        else
            thread_.join();
    }

    [[nodiscard]] bool runs_here() noexcept { return executor().running_in_this_thread(); }

private:
    template <class Finished>
    void launch(std::shared_ptr<void> owner, Finished finished)
    {
        thread_ =
            std::thread{[this, owner = std::move(owner), finished = std::move(finished)]() mutable {
                run([this] { context_.run(); });
                finished();
                context_.restart();
                run([this] { context_.run(); });
            }};
    }
    template <class Run>
    void run(Run handlers)
    {
        for (;;) {
            try {
                handlers();
                return;
            } catch (
                ...) {  // from a handler of the program, or without memory for one of the server
            }
        }
    }

    boost::asio::io_context context_{1};
    boost::asio::executor_work_guard<executor_type> guard_{context_.get_executor()};
    std::mutex mutex_;
    std::thread thread_;
};

/// The same on an executor of the program. With a policy of strands the listener gets a strand,
/// which this object does not keep: a strand must not outlive its context.
template <class Policy>
class hosted_control {
    using inner_type = typename Policy::inner_executor_type;

public:
    using executor_type =
        std::conditional_t<std::is_same_v<typename Policy::executor_type, inner_type>, inner_type,
                           boost::asio::strand<inner_type>>;

    explicit hosted_control(const Policy& policy) : inner_{policy.inner_executor()} {}

    /// The executor, or a new strand on it.
    [[nodiscard]] executor_type executor() const { return executor_type{inner_}; }
    [[nodiscard]] const auto& inner_executor() const noexcept { return inner_; }

private:
    inner_type inner_;
};

/// Whether the server runs on an executor of the program.
template <class Policy>
inline constexpr bool hosted = requires(const Policy& p) { p.inner_executor(); };

/// The executor of completion handlers that have none.
template <class Policy>
struct handler_executor {
    using type = own_control::executor_type;
};
template <class Policy>
    requires hosted<Policy>
struct handler_executor<Policy> {
    using type = typename Policy::executor_type;
};

}  // namespace nbd::acceptance
