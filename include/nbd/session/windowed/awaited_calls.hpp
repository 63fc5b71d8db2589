// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/exports/async_mutex.hpp>
#include <nbd/io/async_event.hpp>
#include <nbd/io/asynchronous.hpp>
#include <nbd/io/handoff.hpp>
#include <nbd/transmission/execution.hpp>
#include <nbd/vocabulary/call.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <system_error>
#include <type_traits>
#include <utility>

namespace nbd::session {

/// Makes the calls of an asynchronous backend: each slot of a window has a coroutine, which awaits the
/// members of the backend one after the other, and is cancelled when the client has gone.
template <class Window>
class awaited_calls {
    using executor_type = typename Window::executor_type;
    using backend_type = typename Window::opened_type::backend_type;
    template <class T>
    using task = boost::asio::awaitable<T, executor_type>;
    /// A call at a time for all clients together; the window sees to one at a time for each.
    static constexpr bool in_turn = concurrency_of<backend_type>() == concurrency::serialize_all;

public:
    static constexpr bool can_cancel = true;

    struct state : exports::async_mutex::waiter {
        io::async_event<executor_type> work;
        boost::asio::cancellation_signal cancelled;
        awaited_calls* owner = nullptr;
        state* next_admitted = nullptr;
        bool has_coroutine = false;
        bool calling = false;
    };

    explicit awaited_calls(Window& w) : window_{w}, turns_{w.executor()} {}

    template <class Slot>
    void begin(Slot& s)
    {
        s.calling = true;
        if (s.has_coroutine) {
            s.work.notify_now();
            return;
        }
        s.owner = this;
        boost::asio::co_spawn(window_.executor(), make_calls(s),
                              boost::asio::bind_cancellation_slot(
                                  s.cancelled.slot(), [this, &s](const std::exception_ptr&) {
                                      s.has_coroutine = false;
                                      if (std::exchange(s.calling, false)) {  // no memory
                                          s.job.settle(transmission::given_up());
                                          window_.finished(s);
                                      }
                                      --coroutines_;
                                      window_.ended();
                                  }));
        s.has_coroutine = true;
        ++coroutines_;
    }
    template <class Slot>
    void resize(Slot& s)
    {
        if constexpr (Window::opened_type::awaits_resize) {
            s.job.settle(std::make_error_code(std::errc::not_enough_memory));  // until it is over
            try {
                boost::asio::co_spawn(window_.executor(), resized(s),
                                      [this, &s](const std::exception_ptr&) {
                                          --coroutines_;
                                          window_.finished(s);
                                          window_.ended();
                                      });
                ++coroutines_;
            } catch (...) {
                window_.finished(s);
                throw;
            }
        } else {
            s.job.resize(window_.disk());
            window_.finished(s);
        }
    }
    template <class Slot>
    void cancel(Slot& s)
    {
        if (s.calling)
            s.cancelled.emit(boost::asio::cancellation_type::terminal);
    }
    /// No more will be begun.
    template <class Slot>
    void end(Slot& s)
    {
        s.work.notify();
    }
    [[nodiscard]] bool ended() const noexcept { return coroutines_ == 0; }

private:
    /// At the async_mutex; whatever happens, the others get theirs.
    struct turn {
        exports::async_mutex* at = nullptr;
        turn() = default;
        turn(const turn&) = delete;
        turn& operator=(const turn&) = delete;
        ~turn() { end(); }
        void end()
        {
            if (at != nullptr)
                std::exchange(at, nullptr)->unlock();
        }
    };

    /// A RESIZE whose calls are awaited.
    template <class Slot>
    task<void> resized(Slot& s)
    {
        const auto r = s.job.request();
        auto outcome =
            co_await io::asynchronous<executor_type>::await(window_.disk().async_resize(r.offset));
        // A backend may resume this coroutine on a thread of its own.
        co_await boost::asio::post(window_.executor(),
                                   boost::asio::use_awaitable_t<executor_type>{});
        s.job.settle(std::move(outcome));
    }

    template <class Slot>
    task<void> make_calls(Slot& s)
    {
        auto& disk = window_.disk();
        for (;;) {
            turn mine;
            std::uint64_t work = 0;
            while (const auto call = s.job.next()) {
                if constexpr (in_turn) {
                    if (mine.at == nullptr) {
                        s.granted = [](exports::async_mutex::waiter& v) {
                            auto& slot = static_cast<Slot&>(v);
                            slot.owner->turns_.put(slot, [](Slot* first) { first->work.notify(); });
                            return true;
                        };
                        auto its_turn = s.work.wait();  // made first: who is queued must not fail
                        if (!disk.async_mutex().lock(s))
                            co_await std::move(its_turn);
                        mine.at = &disk.async_mutex();
                    }
                }
                failure outcome;
                try {
                    if (!transmission::inside(*call, disk.size())) {
                        s.job.completed(transmission::cut_off());
                        continue;
                    }
                    if (call->partial) {
                        if (window_.abandoned()) {
                            s.job.completed(transmission::given_up());
                            continue;
                        }
                        work += call->length;
                    } else if (call->what == transmission::backend_call::member::extents) {
                        work = transmission::zeroes_at_a_time;  // nobody knows how much it looks at
                    }
                    outcome = co_await made(disk.backend(), *call, s.job.data());
                } catch (...) {
                    outcome = transmission::current_failure();
                }
                // A backend may come back on a thread of its own; and one that never waits shall not
                // keep the others of this thread from their turn.
                if (!window_.executor().running_in_this_thread()
                    || work >= transmission::zeroes_at_a_time) {
                    const bool is_long = std::exchange(work, 0) >= transmission::zeroes_at_a_time;
                    // Also what was cancelled: who is cancelled may not await anything else.
                    co_await boost::asio::this_coro::throw_if_cancelled(false);
                    co_await boost::asio::post(window_.executor(),
                                               boost::asio::use_awaitable_t<executor_type>{});
                    co_await boost::asio::this_coro::throw_if_cancelled(true);
                    if (is_long)
                        mine.end();  // a long request takes many turns
                }
                s.job.completed(std::move(outcome));
            }
            mine.end();
            s.calling = false;
            window_.finished(s);
            if (!window_.closing())
                co_await s.work.wait();
            if (!s.calling)
                co_return;
        }
    }

    /// One call of a member, awaited.
    static task<failure> made(backend_type& backend, const transmission::backend_call& call,
                              const transmission::request_data& request_data)
    {
        if constexpr (has_handle<backend_type>) {
            if (call.what == transmission::backend_call::member::handle)
                return handled(backend, request_data);
        }
        return transmission::visit_member(backend, call, request_data,
                                          [](auto member) { return settled(member); });
    }

    static task<failure> handled(backend_type& backend, transmission::request_data request_data)
    {
        transmission::clear_unless_filled<backend_type>(request_data.data);
        nbd::call whole{*request_data.request, request_data.payload, request_data.data};
        auto said = co_await settled([&] { return backend.handle(whole); });
        co_return said ? said : failure{whole.result()};
    }

    /// `member` holds the arguments of the call, so they live until it has completed.
    template <class Member>
    static task<failure> settled(Member member)
    {
        using outcome = decltype(member());
        if constexpr (!awaited_outcome<outcome>) {
            co_return member();
        } else if constexpr (!std::same_as<typename outcome::executor_type, executor_type>) {
            co_return co_await settled(
                [&] { return io::asynchronous<executor_type>::await(member()); });
        } else if constexpr (std::is_void_v<typename outcome::value_type>) {
            co_await member();
            co_return failure{};
        } else {
            co_return co_await member();
        }
    }

    Window& window_;
    std::size_t coroutines_ = 0;
    io::handoff<executor_type, typename Window::slot> turns_;
};

}  // namespace nbd::session
