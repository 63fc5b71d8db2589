// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/handler_memory.hpp>
#include <nbd/io/handler_tracker.hpp>
#include <nbd/io/stored_handler.hpp>

#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/post.hpp>

#include <cstddef>
#include <optional>
#include <type_traits>
#include <utility>

namespace nbd::io {

/// Lets one coroutine wait until another one notifies it, both on one strand. A notification is not
/// stored: the waiter checks its condition before each wait, and again after it. Neither side
/// allocates memory.
template <class Executor>
class async_event : handler_tracker {
public:
    async_event() = default;

    /// Waits for the next notification. For `co_await`.
    [[nodiscard]] auto wait()
    {
        return wait_after([]() noexcept {});
    }
    /// The same; calls `then` when the wait has begun.
    template <class Then>
    [[nodiscard]] auto wait_after(Then then)
    {
        return wait_operation<Then>{*this, std::move(then)};
    }
    /// Resumes the waiter, after the caller.
    void notify() noexcept
    {
        if (!waiter_ || active())
            return;
        bool destroyed = false;
        destroyed_ = &destroyed;
        const bool posted = initiate(this, [this] {
            boost::asio::post(
                *executor_,
                boost::asio::bind_allocator(handler_memory::allocator<std::byte>{memory_},
                                            resumption{*this}));
        });
        if (!posted)
            resume();  // an executor of the program that needs memory to post
        else if (destroyed)
            waiter_.destroy();  // a strand whose context has ended
    }
    /// Resumes the waiter at once, until it waits again.
    void notify_now()
    {
        if (!active())
            resume();
    }

private:
    template <class Then>
    class wait_operation {
    public:
        wait_operation(async_event& event, Then then) : event_{event}, then_{std::move(then)} {}
        template <class Token>
            requires(!std::is_pointer_v<
                     std::decay_t<Token>>)  // Asio also tries the frame of a coroutine
        auto operator()(Token&& token)
        {
            return boost::asio::async_initiate<Token, void()>(
                [this](auto handler) {
                    event_.executor_.emplace(boost::asio::get_associated_executor(handler));
                    event_.waiter_.store(std::move(handler));
                    then_();  // the last use of this object: the waiter may resume meanwhile
                },
                token);
        }

    private:
        async_event& event_;
        Then then_;
    };

    /// If it is destroyed without a call because the context ends, it destroys the coroutine that
    /// waits.
    class resumption {
    public:
        explicit resumption(async_event& e)
            : mark_{e.begin([](handler_tracker& t) {
                  auto& event = static_cast<async_event&>(t);
                  if (initiating == &event)
                      *event.destroyed_ = true;
                  else
                      event.waiter_.destroy();
              })}
        {
        }
        void operator()()
        {
            if (auto* const event = mark_.release())
                static_cast<async_event*>(event)->resume();
        }

    private:
        mark mark_;
    };

    void resume()
    {
        if (waiter_)
            waiter_.call();
    }

    stored_handler<> waiter_;
    std::optional<Executor> executor_;
    handler_memory memory_;
    bool* destroyed_ = nullptr;  ///< set where a resumption is destroyed inside `notify`
};

}  // namespace nbd::io
