// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/observer.hpp>
#include <nbd/exports/drain_order.hpp>
#include <nbd/exports/export_record.hpp>
#include <nbd/session/deadline.hpp>
#include <nbd/session/draining.hpp>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

namespace nbd::acceptance {

/// A call of `drain`, for the policy to run as the session of a client. Its destructor tells the
/// listener that the call has ended.
template <class Listener>
class drain_task {
public:
    using entry = std::list<exports::drain_order>::iterator;

    drain_task(Listener& l, entry at) : self_{l.hold()}, at_{at} {}
    drain_task(drain_task&& other) noexcept
        : self_{std::exchange(other.self_, nullptr)}, at_{other.at_}
    {
    }
    drain_task& operator=(drain_task&&) = delete;
    ~drain_task()
    {
        if (self_ == nullptr)
            return;
        at_->runs = false;
        self_->post(self_, [](Listener& self) { self.finish_if_empty(); });
    }
    [[nodiscard]] auto operator()() { return self_->drains_.make(*self_, *at_); }

private:
    typename Listener::hold_type self_;
    entry at_;
};

/// Calls `drain` of the backends of a listener, one call at a time for each export.
/// *Thread safety*: `left` and `removed` from any thread; the rest on the control executor.
template <class Listener, class Exports>
class drains {
    using order = exports::drain_order;
    using record = exports::export_record<typename Exports::backend_type>;
    static constexpr bool any = has_drain<typename Exports::backend_type>;

public:
    /// A client has left, with its `order`. *Returns* whether `settle` has to be called.
    [[nodiscard]] bool left(std::list<order>& of_client) noexcept
    {
        if constexpr (any) {
            if (of_client.empty() || --record_of(of_client.front())->clients != 0)
                return false;
            const std::lock_guard lock{mutex_};
            asked_.splice(asked_.end(), of_client);
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
            begin_asked(l);
            if (at_end && end_ == session::deadline::never)
                begin_last(l);
            go_on(l);
            return !running();
        } else {
            return true;
        }
    }
    [[nodiscard]] bool running() const noexcept
    {
        return std::any_of(orders_.begin(), orders_.end(),
                           [](const order& o) { return o.runs || o.next; });
    }
    /// *Returns* the task that makes a call.
    [[nodiscard]] auto make(Listener& l, order& o)
    {
        using policy = typename Listener::policy_type;
        auto& observer = l.state_->observer;
        if constexpr (policy::blocking && session::drain_waits<record>)
            return session::drain_on_private_context<
                record, std::remove_reference_t<decltype(observer)>, policy>{
                record_of(o), o.why, over_, observer, l.policy_};
        else
            return session::drain<typename Listener::io_type>(record_of(o), o.why, over_, observer,
                                                              l.policy_);
    }

private:
    using entry = typename drain_task<Listener>::entry;

    [[nodiscard]] static std::shared_ptr<record> record_of(const order& o) noexcept
    {
        return std::static_pointer_cast<record>(o.record);
    }
    /// *Returns* false without memory.
    [[nodiscard]] bool removed(Listener& l, const std::shared_ptr<record>& r) noexcept
    {
        try {
            std::list<order> made;
            made.emplace_back(r);
            {
                const std::lock_guard lock{mutex_};
                asked_.splice(asked_.end(), made);
            }
            l.post(l.shared_from_this(), [](Listener& self) { self.finish_if_empty(); });
            return true;
        } catch (...) {
            return false;
        }
    }

    void begin_asked(Listener& l)
    {
        for (;;) {
            std::list<order> asked;
            {
                const std::lock_guard lock{mutex_};
                if (asked_.empty())
                    return;
                asked.splice(asked.end(), asked_, asked_.begin());
            }
            const auto r = record_of(asked.front());
            // Otherwise there is nothing to do before the next client leaves.
            const bool unused = r->clients == 0;
            if (unused && r->in_set->drains())
                begin(l, asked, drain_reason::export_removed);
            else if (unused && !r->in_set->gone())
                begin(l, asked,
                      l.closing_ ? drain_reason::server_stopped : drain_reason::last_client_left);
        }
    }
    void begin_last(Listener& l)
    {
        for (const auto& name : l.state_->exports->names()) {
            if (const auto r = l.state_->exports->registered(name)) {
                std::list<order> made;
                made.emplace_back(r);
                begin(l, made, drain_reason::server_stopped);
            }
        }
        end_ = l.time_.now() + session::ticker::ticks(l.state_->limits.drain_grace);
    }
    /// Begins a call for the first of `made`, or notes that it follows the one that runs. An export
    /// gets server_stopped once.
    void begin(Listener& l, std::list<order>& made, drain_reason why)
    {
        auto at = std::find_if(orders_.begin(), orders_.end(), [&](const order& o) {
            return record_of(o)->shared == record_of(made.front())->shared;
        });
        if (at == orders_.end()) {
            orders_.splice(orders_.end(), made, made.begin());
            at = std::prev(orders_.end());
            launch(l, at, why);
            return;
        }
        made.pop_front();
        if (at->why == drain_reason::server_stopped && at->why == why)
            return;
        if (at->runs || at->next)
            at->next = at->next ? std::max(*at->next, why) : why;
        else
            launch(l, at, why);
    }
    void launch(Listener& l, entry at, drain_reason why)
    {
        at->next = why;  // tried again if there is no memory
        const auto on = l.policy_.next_executor();
        at->next.reset();
        at->why = why;
        at->runs = true;
        l.arm_tick();
        l.policy_.launch(on, drain_task<Listener>{l, at});
    }
    /// Forgets the calls that have ended, and begins those that follow them.
    void go_on(Listener& l)
    {
        for (auto at = orders_.begin(); at != orders_.end();) {
            const auto o = at++;
            if (o->runs)
                continue;
            const auto r = record_of(*o);
            if (const auto next = std::exchange(o->next, std::nullopt)) {
                if (over_)
                    notify::at_drain_error(l.state_->observer, std::string_view{r->name}, *next,
                                           failure{std::errc::timed_out});
                else if (*next != drain_reason::last_client_left
                         || (r->clients == 0 && !r->in_set->gone()))
                    launch(l, o, *next);
            }
            if (!o->runs && o->why != drain_reason::server_stopped)
                orders_.erase(o);
        }
    }

    std::mutex mutex_;
    std::list<order> asked_;                        ///< guarded by the mutex
    std::list<order> orders_;                       ///< that run, or with server_stopped
    std::uint64_t end_ = session::deadline::never;  ///< of settings.drain_grace, in ticks
    std::atomic<bool> over_{false};
};

}  // namespace nbd::acceptance
