// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/acceptance/serving.hpp>
#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/observer.hpp>
#include <nbd/exports/drain_order.hpp>
#include <nbd/exports/export_record.hpp>
#include <nbd/session/deadline.hpp>
#include <nbd/session/draining.hpp>
#include <nbd/vocabulary/failure.hpp>
#include <nbd/vocabulary/intrusive_queue.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

namespace nbd::acceptance {

/// A call of `drain`, for the policy to run as the session of a client. Its destructor tells the
/// listener that the call has ended, or that it was not made.
template <class Listener>
class drain_task {
public:
    drain_task(Listener& l, exports::drain_order& o) : self_{l.hold()}, order_{&o} {}
    drain_task(drain_task&& other) noexcept
        : self_{std::exchange(other.self_, nullptr)}, order_{other.order_}
    {
    }
    drain_task& operator=(drain_task&&) = delete;
    ~drain_task()
    {
        if (self_ == nullptr)
            return;
        self_->drains_.ended(*self_, *order_);
        self_->post(self_, [](Listener& self) { self.finish_if_empty(); });
    }
    [[nodiscard]] auto operator()() { return self_->drains_.make(*self_, *order_); }

private:
    typename Listener::hold_type self_;
    exports::drain_order* order_;
};

/// Calls `drain` of the backends of a listener, one call at a time for each backend. When the
/// server stops, at most `most_at_end` calls run at a time, because each may take a thread.
/// *Thread safety*: `left`, `removed` and `ended` from any thread; the rest on the control
/// executor.
/// *Complexity*: logarithmic in the number of exports, for each call.
template <class Listener, class Exports>
class drains {
    using order = exports::drain_order;
    using orders = exports::drain_orders;
    using record = exports::export_record<typename Exports::backend_type>;
    static constexpr bool any = has_drain<typename Exports::backend_type>;

public:
    /// Calls with server_stopped.
    static constexpr std::size_t most_at_end = 64;

    /// A client has left, with its `order`. *Returns* whether `settle` has to be called.
    [[nodiscard]] bool left(orders& of_client) noexcept
    {
        if constexpr (any) {
            if (of_client.empty() || --record_of(of_client.begin()->second).clients != 0)
                return false;
            const std::lock_guard lock{mutex_};
            asked_.merge(of_client);
            return true;
        }
        return false;
    }
    /// Lets the export set tell of removals.
    void watch(Listener& l, Exports& exports)
    {
        if constexpr (any)
            exports.watchers().add(l.weak_from_this(),
                                   [](void* object, const std::shared_ptr<record>& r) noexcept {
                                       auto& self = *static_cast<Listener*>(object);
                                       return !self.finished() && self.drains_.removed(self, r);
                                   });
    }

    /// Makes the calls that are due; if `at_end`, with server_stopped for every export. *Returns*
    /// true if none runs any more.
    [[nodiscard]] bool settle([[maybe_unused]] Listener& l, [[maybe_unused]] bool at_end)
    {
        if constexpr (any) {
            if (l.time_.now() >= end_)
                over_ = true;
            take_ended();
            take_asked(l);
            if (at_end && end_ == session::deadline::never)
                add_last(l);
            launch_due(l);
            return !running();
        } else {
            return true;
        }
    }
    /// Ends settings.drain_grace, if it has begun; to be followed by `settle`.
    void end_grace() noexcept
    {
        if (end_ != session::deadline::never)
            end_ = 0;
    }
    [[nodiscard]] bool running() const noexcept { return running_ != 0 || !due_.empty(); }
    /// *Returns* the task that makes a call.
    [[nodiscard]] auto make(Listener& l, order& o)
    {
        using policy = typename Listener::policy_type;
        auto shared = std::static_pointer_cast<record>(o.record);
        if constexpr (policy::blocking && session::drain_waits<record>)
            return session::drain_on_private_context<record, policy>{std::move(shared), o.why,
                                                                     over_, o.outcome, l.policy_};
        else
            return session::drain<io_of<policy>>(std::move(shared), o.why, over_, o.outcome,
                                                 l.policy_);
    }
    /// A call has ended, or its task was destroyed before.
    void ended(Listener& l, order& o) noexcept
    {
        if (o.outcome)
            report(l, o, o.outcome);
        const std::lock_guard lock{mutex_};
        ended_.push(o);
    }

private:
    [[nodiscard]] static record& record_of(const order& o) noexcept
    {
        return *static_cast<record*>(o.record.get());
    }
    static void report(Listener& l, const order& o, const failure& why) noexcept
    {
        notify::at_drain_error(l.state_->observer, std::string_view{record_of(o).name}, o.why, why);
    }
    [[nodiscard]] static orders order_for(const std::shared_ptr<record>& r)
    {
        orders made;
        made.try_emplace(r->shared.get(), r);
        return made;
    }
    /// *Returns* false without memory.
    [[nodiscard]] bool removed(Listener& l, const std::shared_ptr<record>& r) noexcept
    {
        try {
            auto made = order_for(r);
            {
                const std::lock_guard lock{mutex_};
                asked_.merge(made);
            }
            l.post(l.shared_from_this(), [](Listener& self) { self.finish_if_empty(); });
            return true;
        } catch (...) {
            return false;
        }
    }

    void take_ended() noexcept
    {
        intrusive_queue<order> ended;
        {
            const std::lock_guard lock{mutex_};
            ended = std::exchange(ended_, {});
        }
        while (!ended.empty()) {
            order& o = ended.pop();
            o.runs = false;
            --running_;
            if (o.why == drain_reason::server_stopped)
                --running_at_end_;
            if (o.next)
                due_.push(o);
            else
                forget(o);
        }
    }
    void take_asked(Listener& l)
    {
        for (;;) {
            orders::node_type asked;
            {
                const std::lock_guard lock{mutex_};
                if (asked_.empty())
                    return;
                asked = asked_.extract(asked_.begin());
            }
            const auto& r = record_of(asked.mapped());
            // Otherwise there is nothing to do before the next client leaves.
            const bool unused = r.clients == 0;
            if (unused && r.in_set->drains())
                add(std::move(asked), drain_reason::export_removed);
            else if (unused && !r.in_set->gone())
                add(std::move(asked),
                    l.closing_ ? drain_reason::server_stopped : drain_reason::last_client_left);
        }
    }
    void add_last(Listener& l)
    {
        for (const auto& name : l.state_->exports->names()) {
            if (const auto r = l.state_->exports->registered(name)) {
                auto made = order_for(r);
                add(made.extract(made.begin()), drain_reason::server_stopped);
            }
        }
        end_ = l.time_.now() + session::ticker::ticks(l.state_->limits.drain_grace);
    }
    /// Adds a call, or notes that it follows the one that runs. A backend gets server_stopped once.
    void add(orders::node_type made, drain_reason why) noexcept
    {
        auto at = orders_.find(made.key());
        if (at == orders_.end())
            at = orders_.insert(std::move(made)).position;
        order& o = at->second;
        if (o.why == drain_reason::server_stopped && o.why == why)
            return;
        const bool is_queued = o.runs || o.next;
        o.next = o.next ? std::max(*o.next, why) : why;
        if (!is_queued)
            due_.push(o);
    }
    /// *Errors*: without memory, what is left is due at the next tick.
    void launch_due(Listener& l)
    {
        while (!due_.empty() && (over_ || running_at_end_ < most_at_end)) {
            l.arm_tick();
            const auto on = l.policy_.next_executor();
            order& o = due_.pop();
            o.why = *std::exchange(o.next, std::nullopt);
            const auto& r = record_of(o);
            if (over_) {
                report(l, o, std::errc::timed_out);
                forget(o);
            } else if (o.why == drain_reason::last_client_left
                       && (r.clients != 0 || r.in_set->gone())) {
                forget(o);
            } else {
                o.outcome = std::errc::operation_canceled;  // unless it ends
                o.runs = true;
                ++running_;
                if (o.why == drain_reason::server_stopped)
                    ++running_at_end_;
                l.policy_.launch(on, drain_task<Listener>{l, o});
            }
        }
    }
    void forget(order& o) noexcept
    {
        if (o.why != drain_reason::server_stopped)
            orders_.erase(record_of(o).shared.get());
    }

    std::mutex mutex_;
    std::multimap<const void*, order> asked_;  ///< guarded by the mutex
    intrusive_queue<order> ended_;             ///< guarded by the mutex
    orders orders_;                            ///< that run or are due, or with server_stopped
    intrusive_queue<order> due_;               ///< those with `next` that do not run
    std::size_t running_ = 0;
    std::size_t running_at_end_ = 0;                ///< with server_stopped
    std::uint64_t end_ = session::deadline::never;  ///< of settings.drain_grace, in ticks
    std::atomic<bool> over_{false};
};

}  // namespace nbd::acceptance
