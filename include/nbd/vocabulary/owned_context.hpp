// SPDX-License-Identifier: MIT
#pragma once

#include <boost/asio/execution_context.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>

#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <utility>

namespace nbd {

/// An io_context of a thread of the server. A coroutine that waits on another executor, by nbd::on,
/// shares its ownership: the server may end before that executor resumes the coroutine.
/// *Thread safety*: `guarded` from any thread; `leave` once.
class owned_context : public std::enable_shared_from_this<owned_context> {
public:
    /// While a thread has one, it is the thread that runs the context.
    class scope {
    public:
        explicit scope(owned_context& runs) noexcept : before_{std::exchange(here_, &runs)} {}
        scope(const scope&) = delete;
        scope& operator=(const scope&) = delete;
        ~scope() { here_ = before_; }

    private:
        owned_context* const before_;
    };

    /// *Returns* the owner of a context that the calling thread runs; null for other contexts.
    [[nodiscard]] static std::shared_ptr<owned_context>
    of(const boost::asio::execution_context& context)
    {
        const bool own = here_ != nullptr && &here_->context == &context;
        return own ? here_->shared_from_this() : nullptr;
    }

    /// Destroys what waits on the context, which no thread runs any more. What waits on another
    /// executor is destroyed when that executor resumes or destroys it.
    void leave() noexcept
    {
        const std::lock_guard lock{mutex_};
        left_ = true;
        (context.*&access::shutdown)();
    }
    /// Calls f(whether the context was left) while `leave` waits.
    template <class F>
    void guarded(F f)
    {
        const std::lock_guard lock{mutex_};
        f(left_);
    }

    boost::asio::io_context context{1};

private:
    /// Destroys the handlers of a context and lets its services live, so that handlers which
    /// another thread destroys later may still refer to them.
    struct access : boost::asio::io_context {
        using boost::asio::io_context::shutdown;
    };

    static inline thread_local owned_context* here_ = nullptr;

    std::recursive_mutex mutex_;  // a handler that `leave` destroys may own a waiting coroutine
    bool left_ = false;
};

/// Resumes a coroutine on its own executor when a task on another one has ended. It has no
/// executor, so it is called and destroyed where the task runs, and no cancellation slot.
template <class Handler, class Home>
class resume_at_home {
public:
    resume_at_home(Handler handler, const Home& home, std::shared_ptr<owned_context> owner)
        : owner_{std::move(owner)}, home_{home}, handler_{std::move(handler)}
    {
    }
    resume_at_home(resume_at_home&& other) noexcept
        : owner_{std::move(other.owner_)}, home_{std::move(other.home_)},
          handler_{std::exchange(other.handler_, std::nullopt)}
    {
    }
    resume_at_home& operator=(resume_at_home&&) = delete;
    ~resume_at_home()
    {
        if (owner_ != nullptr)
            owner_->guarded([this](bool) { handler_.reset(); });
    }

    template <class... Args>
    void operator()(Args... args)
    {
        const auto resume = [&] {
            boost::asio::post(
                home_.get_executor(),
                [handler = std::move(*handler_), all = std::tuple{std::move(args)...}]() mutable {
                    std::apply(std::move(handler), std::move(all));
                });
        };
        if (owner_ == nullptr)
            resume();
        else
            owner_->guarded([&](bool left) {
                if (!left)
                    resume();
            });
    }

private:
    std::shared_ptr<owned_context> owner_;  ///< first, so that it is destroyed last
    boost::asio::executor_work_guard<Home> home_;
    std::optional<Handler> handler_;
};

/// What a task with a result of type T ends with.
template <class T>
struct end_of_task {
    using signature = void(std::exception_ptr, T);
};
template <>
struct end_of_task<void> {
    using signature = void(std::exception_ptr);
};

}  // namespace nbd
