// SPDX-License-Identifier: MIT
#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <utility>
#include <variant>

namespace nbd::acceptance {

/// Where a listener's handlers run: a context with one thread, both its own, which sleeps between
/// them. It ends when `finish` was called and no handler is left.
template <class Policy>
class own_control {
public:
    using executor_type = boost::asio::io_context::executor_type;

    explicit own_control(Policy& policy) : policy_{policy} {}

    [[nodiscard]] executor_type executor() noexcept { return context_.get_executor(); }
    /// Whether handlers are run; those of a context of its own will be, or end with it.
    [[nodiscard]] bool started() const noexcept { return true; }
    /// Held by every handler.
    [[nodiscard]] std::monostate hold() const noexcept { return {}; }

    /// Runs handlers from now on; `carry_on()` is called after one that threw, and does not throw.
    template <class CarryOn>
    void start(CarryOn carry_on)
    {
        const std::lock_guard lock{joining_};
        thread_ = std::thread{[this, carry_on] {
            for (;;) {
                try {
                    context_.run();
                    return;
                } catch (...) {  // no memory for one handler; the next may have it
                    carry_on();
                }
            }
        }};
    }
    void finish() { guard_.reset(); }

    /// Until it has ended, and the threads of the policy with it; not from one of those.
    void wait()
    {
        if (context_.get_executor().running_in_this_thread() || policy_.runs_here())
            return;
        const std::lock_guard lock{joining_};
        if (!thread_.joinable())
            return;
        thread_.join();
        policy_.join();
    }

private:
    Policy& policy_;
    boost::asio::io_context context_{1};
    boost::asio::executor_work_guard<executor_type> guard_{context_.get_executor()};
    std::thread thread_;
    std::mutex joining_;
};

/// The same on an executor that is the user's: a strand of it.
template <class Policy>
class hosted_control {
public:
    using executor_type = boost::asio::strand<typename Policy::inner_executor_type>;

    explicit hosted_control(Policy& policy) : policy_{policy}, executor_{policy.inner_executor()} {}

    [[nodiscard]] executor_type executor() const noexcept { return executor_; }

    /// A handler that is not over. The server must stay until there is none.
    class held {
    public:
        explicit held(hosted_control& of) : of_{&of}
        {
            const std::lock_guard lock{of.mutex_};
            ++of.handlers_;
        }
        held(const held& other) : held{*other.of_} {}
        held(held&& other) noexcept : of_{std::exchange(other.of_, nullptr)} {}
        held& operator=(const held&) = delete;
        ~held()
        {
            if (of_ == nullptr)
                return;
            const std::lock_guard lock{of_->mutex_};
            if (--of_->handlers_ == 0)
                of_->changed_.notify_all();
        }

    private:
        hosted_control* of_;
    };
    [[nodiscard]] held hold() { return held{*this}; }

    template <class CarryOn>
    void start(CarryOn)
    {
        const std::lock_guard lock{mutex_};
        started_ = true;
    }
    [[nodiscard]] bool started()
    {
        const std::lock_guard lock{mutex_};
        return started_;
    }
    void finish()
    {
        const std::lock_guard lock{mutex_};
        finished_ = true;
        changed_.notify_all();
    }

    /// Until it has ended; not from a thread that runs the executor. A context that nobody runs is run
    /// here, if it can be.
    void wait()
    {
        if (policy_.runs_here())
            return;
        bool alone = false;
        while (!over(std::chrono::milliseconds{alone ? 0 : 50})) {
            if constexpr (requires { policy_.inner_executor().context().run_one(); }) {
                auto& context = policy_.inner_executor().context();
                if (!alone && !context.stopped() && runs_elsewhere())
                    continue;
                alone = true;
                if (context.stopped())
                    context.restart();
                context.run_one_for(std::chrono::milliseconds{10});
            }
        }
    }

private:
    [[nodiscard]] bool is_over() const { return (!started_ || finished_) && handlers_ == 0; }
    [[nodiscard]] bool over(std::chrono::milliseconds patience)
    {
        std::unique_lock lock{mutex_};
        return changed_.wait_for(lock, patience, [this] { return is_over(); });
    }
    /// Whether some thread runs what is posted to the executor, within a second.
    [[nodiscard]] bool runs_elsewhere()
    {
        {
            const std::lock_guard lock{mutex_};
            heard_ = false;
        }
        boost::asio::post(executor_, [this, held = hold()] {
            const std::lock_guard lock{mutex_};
            heard_ = true;
            changed_.notify_all();
        });
        std::unique_lock lock{mutex_};
        return changed_.wait_for(lock, std::chrono::seconds{1},
                                 [this] { return heard_ || is_over(); });
    }

    Policy& policy_;
    executor_type executor_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::size_t handlers_ = 0;
    bool started_ = false;
    bool finished_ = false;
    bool heard_ = false;
};

}  // namespace nbd::acceptance
