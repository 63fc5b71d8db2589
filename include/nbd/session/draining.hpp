// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/threading_policy.hpp>
#include <nbd/exports/async_lock.hpp>
#include <nbd/io/async_event.hpp>
#include <nbd/io/asynchronous.hpp>
#include <nbd/io/handler_tracker.hpp>
#include <nbd/io/handoff.hpp>
#include <nbd/io/periodic_notifier.hpp>
#include <nbd/session/private_context.hpp>
#include <nbd/vocabulary/failure.hpp>
#include <nbd/vocabulary/outcome_of.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/this_coro.hpp>

#include <atomic>
#include <memory>
#include <optional>
#include <system_error>
#include <type_traits>
#include <utility>

/// Calls of a backend's `drain`. `record` is an export_record.
namespace nbd::session {

/// Whether the call needs an executor: it is awaited, or it waits for calls that are.
template <class Record>
inline constexpr bool drain_waits = awaits_drain<typename Record::backend_type>
    || (asynchronous<served_t<typename Record::backend_type>> && Record::serializes_long_calls);

/// Makes the call of a `drain` that is synchronous.
template <class Record>
[[nodiscard]] failure drain_now(Record& r, drain_reason why) noexcept
{
    return outcome_of([&]() -> failure {
        [[maybe_unused]] const auto lock = r.lock_backend();
        return outcome_of([&] { return r.backend.drain(why); });
    });
}

/// Awaits a `drain`, until it ends or `over` is true.
/// *Lifetime*: the call may outlive this object.
template <class Executor>
class awaited_drain {
public:
    explicit awaited_drain(const Executor& on) : executor_{on}, tick_{on, wake{*this}} {}
    awaited_drain(const awaited_drain&) = delete;
    awaited_drain& operator=(const awaited_drain&) = delete;

    template <class Record>
    boost::asio::awaitable<failure, Executor> run(std::shared_ptr<Record> r, drain_reason why,
                                                  const std::atomic<bool>& over)
    {
        const auto made = std::make_shared<call>();
        ended_.owner = this;
        boost::asio::co_spawn(
            executor_, make(made, std::move(r), why),
            boost::asio::bind_cancellation_slot(
                made->cancelled.slot(),
                completion{ended_.begin([](io::handler_tracker& ended) {
                               static_cast<tracker&>(ended).owner->changed_.notify();
                           }),
                           made}));
        while (ended_.active()) {
            if (over) {
                made->abandoned = true;
                if constexpr (promises_cancellable<served_t<typename Record::backend_type>>)
                    made->cancelled.emit(boost::asio::cancellation_type::terminal);
                co_return std::errc::timed_out;
            }
            tick_.arm();
            co_await changed_.wait();
        }
        co_return std::move(made->outcome);
    }

private:
    struct call {
        failure outcome{std::errc::not_enough_memory};  // if it does not complete
        boost::asio::cancellation_signal cancelled;
        bool abandoned = false;
    };
    struct completion {
        io::handler_tracker::mark mark;
        std::shared_ptr<call> made;  // the signal outlives its slot
        void operator()(const std::exception_ptr&) noexcept {}
    };
    struct tracker : io::handler_tracker {
        awaited_drain* owner = nullptr;
    };
    struct wake {
        awaited_drain& owner;
        void operator()() const { owner.changed_.notify(); }
    };

    template <class Record>
    static boost::asio::awaitable<void, Executor> make(std::shared_ptr<call> made,
                                                       std::shared_ptr<Record> r, drain_reason why)
    {
        failure failed;
        try {
            std::optional<exports::async_lock> lock_of_calls;
            if constexpr (Record::serializes_long_calls)
                lock_of_calls.emplace(co_await exports::lock<Executor>(r->long_calls_mutex));
            if (made->abandoned)
                co_return;
            if constexpr (!awaits_drain<typename Record::backend_type>) {
                failed = drain_now(*r, why);
            } else {
                auto drain = io::asynchronous<Executor>::await(r->backend.drain(why));
                if constexpr (std::is_void_v<typename decltype(drain)::value_type>)
                    co_await std::move(drain);
                else
                    failed = co_await std::move(drain);
            }
        } catch (...) {
            failed = current_failure();
        }
        made->outcome = std::move(failed);
    }

    const Executor executor_;
    tracker ended_;
    io::async_event<Executor> changed_;
    io::periodic_notifier<Executor, wake> tick_;
};

/// Makes a synchronous call on one of the threads of a policy for calls that block.
template <class Executor, class Record>
class offloaded_drain : offloaded_call {
public:
    offloaded_drain(const Executor& on, Record& r, drain_reason why)
        : record_{r}, why_{why}, made_{on}
    {
    }

    /// *Errors*: those of `policy.offload`.
    template <class Policy>
    boost::asio::awaitable<failure, Executor> run(Policy& policy)
    {
        offloaded_call::run = [](offloaded_call& c) noexcept {
            auto& self = static_cast<offloaded_drain&>(c);
            self.outcome_ = drain_now(self.record_, self.why_);
            self.made_.put(self, [&self](offloaded_drain*) {
                self.over_ = true;
                self.changed_.notify_now();
            });
        };
        policy.offload(calls_, *this);
        while (!over_)
            co_await changed_.wait();
        co_return std::move(outcome_);
    }

private:
    friend io::handoff<Executor, offloaded_drain>;

    Record& record_;
    const drain_reason why_;
    offloaded_calls calls_;
    failure outcome_;
    bool over_ = false;
    io::async_event<Executor> changed_;
    offloaded_drain* next = nullptr;  // for `made_`
    io::handoff<Executor, offloaded_drain> made_;
};

/// Calls `drain`. `outcome` is set when the call has ended.
/// *Lifetime*: the arguments outlive the task.
template <class Io, class Record, class Policy>
typename Io::template task<void> drain(std::shared_ptr<Record> r, drain_reason why,
                                       [[maybe_unused]] const std::atomic<bool>& over,
                                       failure& outcome, [[maybe_unused]] Policy& policy)
{
    using served = served_t<typename Record::backend_type>;
    failure failed;
    try {
        if constexpr (drain_waits<Record>) {
            const auto on = co_await boost::asio::this_coro::executor;
            awaited_drain<std::remove_const_t<decltype(on)>> call{on};
            failed = co_await call.run(r, why, over);
        } else if constexpr (promises_blocks<served> && offloads<Policy>) {
            const auto on = co_await boost::asio::this_coro::executor;
            offloaded_drain<std::remove_const_t<decltype(on)>, Record> call{on, *r, why};
            failed = co_await call.run(policy);
        } else {
            failed = drain_now(*r, why);
        }
    } catch (...) {  // no memory, or no thread
        failed = current_failure();
    }
    outcome = std::move(failed);
    co_return;
}

/// The same, for a policy whose threads block. It has `get()`, as a blocking task has.
template <class Record, class Policy>
class drain_on_private_context : public private_context {
public:
    drain_on_private_context(std::shared_ptr<Record> r, drain_reason why,
                             const std::atomic<bool>& over, failure& outcome, Policy& policy)
        : record_{std::move(r)}, why_{why}, over_{over}, outcome_{outcome}, policy_{policy}
    {
    }
    void get()
    {
        run(drain<io::asynchronous<executor_type>>(std::move(record_), why_, over_, outcome_,
                                                   policy_));
    }

private:
    std::shared_ptr<Record> record_;
    const drain_reason why_;
    const std::atomic<bool>& over_;
    failure& outcome_;
    Policy& policy_;
};

}  // namespace nbd::session
