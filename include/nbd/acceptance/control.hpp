// SPDX-License-Identifier: MIT
#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>

#include <mutex>
#include <thread>
#include <utility>

namespace nbd::acceptance {

/// The context of a listener's handlers, and its thread, where the policy has threads of its own.
/// *Thread safety*: any member from any thread; `start` once.
class own_control {
public:
    using executor_type = boost::asio::io_context::executor_type;

    template <class Policy>
    explicit own_control(const Policy&)
    {
    }

    [[nodiscard]] executor_type executor() noexcept { return context_.get_executor(); }

    /// Starts the thread, which calls `body()`.
    /// *Errors*: std::system_error where the system has no more threads.
    template <class Body>
    void start(Body body)
    {
        const std::lock_guard lock{joining_};
        thread_ = std::thread{std::move(body)};
    }
    /// Runs handlers until `finish` was called and no handler is left. `failed()` is called after a handler
    /// that threw.
    template <class Failed>
    void run(Failed failed)
    {
        for (;;) {
            try {
                context_.run();
                return;
            } catch (...) {
                failed();
            }
        }
    }
    void finish() noexcept { guard_.reset(); }
    /// Runs the handlers that are ready, on the calling thread, where `start` failed.
    void run_ready() { context_.poll(); }

    [[nodiscard]] bool runs_here() noexcept { return executor().running_in_this_thread(); }
    void join()
    {
        const std::lock_guard lock{joining_};
        if (thread_.joinable())
            thread_.join();
    }
    void detach()
    {
        const std::lock_guard lock{joining_};
        if (thread_.joinable())
            thread_.detach();
    }

private:
    boost::asio::io_context context_{1};
    boost::asio::executor_work_guard<executor_type> guard_{context_.get_executor()};
    std::thread thread_;
    std::mutex joining_;
};

/// The same on an executor of the program. It keeps the plain executor and no strand, because a strand
/// must not outlive its context.
template <class Policy>
class hosted_control {
public:
    using executor_type = boost::asio::strand<typename Policy::inner_executor_type>;

    explicit hosted_control(const Policy& policy) : inner_{policy.inner_executor()} {}

    /// A new strand.
    [[nodiscard]] executor_type executor() const { return executor_type{inner_}; }
    [[nodiscard]] const auto& inner_executor() const noexcept { return inner_; }

private:
    typename Policy::inner_executor_type inner_;
};

/// Whether the server runs on an executor of the program.
template <class Policy>
inline constexpr bool hosted = requires(const Policy& p) { p.inner_executor(); };

}  // namespace nbd::acceptance
