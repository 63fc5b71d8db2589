// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/promises.hpp>
#include <nbd/exports/opened_export.hpp>
#include <nbd/io/async_event.hpp>
#include <nbd/io/handler_memory.hpp>
#include <nbd/io/handler_tracker.hpp>
#include <nbd/io/periodic_notifier.hpp>
#include <nbd/session/context.hpp>
#include <nbd/vocabulary/failure.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/this_coro.hpp>

#include <optional>
#include <system_error>
#include <utility>

namespace nbd::session {

/// Awaits the `open` of a backend for a client. If the backend is `cancellable`, the call gets
/// asio::cancellation_type::terminal when the client has left or the server closes the connection.
/// *Lifetime*: it exists until `run` has completed, or its context is destroyed.
template <class Io, class Stream, class Exports, class Observer>
class awaited_open {
    using opened = typename Exports::opened;
    using executor_type = typename Stream::executor_type;
    template <class T>
    using task = typename Io::template task<T>;

public:
    awaited_open(Stream& stream, context<Observer>& c)
        : executor_{stream.get_executor()}, c_{c}, tick_{executor_, wake{*this}}
    {
    }
    awaited_open(const awaited_open&) = delete;
    awaited_open& operator=(const awaited_open&) = delete;

    /// *Returns* nothing on failure, with the cause in `why`. `found`: a record of `Exports`.
    template <class Record>
    task<std::optional<opened>> run(Record found, open_purpose purpose, failure& why)
    {
        if constexpr (promises_cancellable<typename Exports::backend_type>) {
            // Nothing is received during the call, so the server checks the connection.
            const typename context<Observer>::working_scope works{c_};
            why = std::make_error_code(std::errc::not_enough_memory);  // if it does not complete
            call_.owner = this;
            boost::asio::co_spawn(
                executor_, call(std::move(found), purpose, why),
                boost::asio::bind_cancellation_slot(
                    cancelled_.slot(),
                    io::tracked_completion{call_.begin([](io::handler_tracker& ended) {
                        static_cast<tracker&>(ended).owner->changed_.notify();
                    })}));
            for (bool told = false; call_.active();) {
                if (!told && c_.ending.closed_for() != errc{}) {
                    told = true;
                    cancelled_.emit(boost::asio::cancellation_type::terminal);
                    continue;
                }
                if (!told)
                    tick_.arm();
                co_await changed_.wait();
            }
        } else {
            co_await call(std::move(found), purpose, why);
        }
        co_return std::move(result_);
    }

private:
    struct tracker : io::handler_tracker {
        awaited_open* owner = nullptr;
    };
    struct wake {
        awaited_open& owner;
        void operator()() const { owner.changed_.notify(); }
    };

    template <class Record>
    task<void> call(Record found, open_purpose purpose, failure& why)
    {
        failure failed;
        auto made =
            co_await Io::await(exports::async_open(std::move(found), c_.who, purpose, failed));
        // A cancelled coroutine may not await anything otherwise.
        co_await boost::asio::this_coro::throw_if_cancelled(false);
        // The backend may have resumed this coroutine on another thread.
        co_await Io::resume_on(executor_, home_);
        why = std::move(failed);
        if (made)
            result_.emplace(std::move(*made));
    }

    const executor_type executor_;
    context<Observer>& c_;
    std::optional<opened> result_;
    tracker call_;
    boost::asio::cancellation_signal cancelled_;
    io::async_event<executor_type> changed_;
    io::periodic_notifier<executor_type, wake> tick_;
    io::handler_memory home_;
};

}  // namespace nbd::session
