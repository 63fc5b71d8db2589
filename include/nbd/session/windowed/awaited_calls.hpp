// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/promises.hpp>
#include <nbd/exports/async_mutex.hpp>
#include <nbd/io/async_event.hpp>
#include <nbd/io/asynchronous.hpp>
#include <nbd/io/handler_tracker.hpp>
#include <nbd/io/handoff.hpp>
#include <nbd/transmission/execution.hpp>
#include <nbd/vocabulary/call.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/this_coro.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <system_error>
#include <type_traits>
#include <utility>

namespace nbd::session {

/// Makes the calls of an awaited backend: each slot of a window has a coroutine, which awaits the
/// members of the backend one after the other. Calls of a `cancellable` backend are cancelled when
/// the client has gone.
template <class Window>
class awaited_calls {
    using executor_type = typename Window::executor_type;
    using opened_type = typename Window::opened_type;
    using backend_type = typename opened_type::backend_type;
    using io_type = io::asynchronous<executor_type>;
    template <class T>
    using task = boost::asio::awaitable<T, executor_type>;
    /// One call at a time for all clients together; the window limits those of one client.
    static constexpr bool in_turn = concurrency_of<backend_type>() == concurrency::serialize_all;
    static constexpr bool cancels = promises_cancellable<backend_type>;

public:
    struct state : exports::async_mutex::waiter, io::handler_tracker {
        io::async_event<executor_type> work;
        boost::asio::cancellation_signal cancelled;
        io::handler_memory memory;
        awaited_calls* owner = nullptr;
        bool calling = false;
        bool waits_for_lock = false;

        ~state()
        {
            if constexpr (in_turn) {
                if (waits_for_lock)
                    owner->window_.disk().async_mutex().abandon(*this);
            }
        }
    };

    /// `disk`: the window's. Coroutines share it, because an io_context that is destroyed may
    /// destroy them after the session.
    awaited_calls(Window& w, std::shared_ptr<opened_type> disk)
        : window_{w}, disk_{std::move(disk)}, turns_{w.executor()}
    {
    }

    /// Without memory only this request fails.
    template <class Slot>
    void begin(Slot& s) noexcept
    {
        s.calling = true;
        try {
            if (s.active())
                s.work.notify_now();
            else
                spawn(s);
        } catch (...) {  // the coroutine has ended; ended() was called, or is called soon
        }
    }
    template <class Slot>
    void resize(Slot& s) noexcept
    {
        if constexpr (Window::opened_type::awaits_resize) {
            s.job.settle(std::make_error_code(
                std::errc::not_enough_memory));  // the result if it does not complete
            resize_.owner = this;
            resize_.slot = &s;
            ++coroutines_;
            io::tracked_completion done{resize_.begin([](io::handler_tracker& t) {
                auto& ended = static_cast<resize_state&>(t);
                --ended.owner->coroutines_;
                ended.owner->window_.finished(static_cast<Slot&>(*ended.slot));
                ended.owner->window_.ended();
            })};
            try {
                if constexpr (cancels)
                    boost::asio::co_spawn(window_.executor(), resized(s, disk_),
                                          boost::asio::bind_cancellation_slot(
                                              resize_.cancelled.slot(), std::move(done)));
                else
                    boost::asio::co_spawn(window_.executor(), resized(s, disk_), std::move(done));
            } catch (...) {  // as in begin
            }
        } else {
            s.job.resize(window_.disk());
            window_.finished(s);
        }
    }
    template <class Slot>
    void cancel(Slot& s) noexcept
    {
        if constexpr (cancels) {
            try {
                if (s.calling)
                    s.cancelled.emit(boost::asio::cancellation_type::terminal);
                if (resize_.slot == &s && resize_.active())
                    resize_.cancelled.emit(boost::asio::cancellation_type::terminal);
            } catch (...) {  // an operation of the backend has no memory for it: it is awaited
            }
        }
    }
    /// No further call is begun.
    template <class Slot>
    void end(Slot& s) noexcept
    {
        s.work.notify();
    }
    [[nodiscard]] bool ended() const noexcept { return coroutines_ == 0; }

private:
    struct resize_state : io::handler_tracker {
        awaited_calls* owner = nullptr;
        state* slot = nullptr;
        boost::asio::cancellation_signal cancelled;
    };

    template <class Slot>
    void spawn(Slot& s)
    {
        s.owner = this;
        ++coroutines_;
        io::tracked_completion done{s.begin([](io::handler_tracker& t) {
            auto& slot = static_cast<Slot&>(t);
            slot.owner->ended(slot);
        })};
        if constexpr (cancels)
            boost::asio::co_spawn(
                window_.executor(), make_calls(s, disk_),
                boost::asio::bind_cancellation_slot(s.cancelled.slot(), std::move(done)));
        else
            boost::asio::co_spawn(window_.executor(), make_calls(s, disk_), std::move(done));
    }
    template <class Slot>
    void ended(Slot& s) noexcept
    {
        --coroutines_;
        if (std::exchange(s.calling, false)) {
            s.job.settle(std::make_error_code(std::errc::not_enough_memory));
            window_.finished(s);
        }
        window_.ended();
    }

    /// Unlocks the async_mutex, however the coroutine ends.
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
    task<void> resized(Slot& s, std::shared_ptr<opened_type> shared)
    {
        const auto r = s.job.request();
        auto outcome = co_await io_type::await(shared->async_resize(r.offset));
        // A cancelled coroutine may not await anything otherwise.
        co_await boost::asio::this_coro::throw_if_cancelled(false);
        // A backend may resume this coroutine on a thread of its own.
        co_await io_type::resume_on(window_.executor(), s.memory);
        s.job.settle(std::move(outcome));
    }

    template <class Slot>
    task<void> make_calls(Slot& s, std::shared_ptr<opened_type> shared)
    {
        auto& disk = *shared;
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
                        if (!disk.async_mutex().lock(s)) {
                            s.waits_for_lock = true;
                            // A cancelled coroutine may not await anything otherwise.
                            co_await boost::asio::this_coro::throw_if_cancelled(false);
                            co_await s.work.wait();
                            co_await boost::asio::this_coro::throw_if_cancelled(true);
                            s.waits_for_lock = false;
                        }
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
                        work = transmission::zeroes_at_a_time;  // its cost is unknown
                    }
                    if ((cancels && window_.gone()) || window_.is_useless(s.job.request())) {
                        s.job.completed(transmission::given_up());
                        continue;
                    }
                    if constexpr (cancels) {
                        // A call may change both, and Asio keeps them for the whole coroutine.
                        co_await boost::asio::this_coro::reset_cancellation_state(
                            boost::asio::enable_terminal_cancellation());
                        co_await boost::asio::this_coro::throw_if_cancelled(true);
                    }
                    outcome = co_await made(disk.backend(), *call, s.job.data());
                } catch (...) {
                    outcome = current_failure();
                }
                // A backend may resume this coroutine on a thread of its own. A backend that never
                // waits must not delay the other clients of this thread.
                if (!window_.executor().running_in_this_thread()
                    || work >= transmission::zeroes_at_a_time) {
                    const bool is_long = std::exchange(work, 0) >= transmission::zeroes_at_a_time;
                    co_await boost::asio::this_coro::throw_if_cancelled(false);  // as above
                    co_await io_type::resume_on(window_.executor(), s.memory);
                    co_await boost::asio::this_coro::throw_if_cancelled(true);
                    if (is_long)
                        mine.end();  // other clients call in between
                }
                s.job.completed(std::move(outcome));
            }
            mine.end();
            s.calling = false;
            window_.finished(s);
            while (!s.calling && !window_.closing())
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
            co_return co_await settled([&] { return io_type::await(member()); });
        } else if constexpr (std::is_void_v<typename outcome::value_type>) {
            co_await member();
            co_return failure{};
        } else {
            co_return co_await member();
        }
    }

    Window& window_;
    const std::shared_ptr<opened_type> disk_;
    std::size_t coroutines_ = 0;
    resize_state resize_;
    io::handoff<executor_type, typename Window::slot> turns_;
};

}  // namespace nbd::session
