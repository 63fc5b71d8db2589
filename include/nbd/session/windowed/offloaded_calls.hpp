// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/threading_policy.hpp>
#include <nbd/exports/async_mutex.hpp>
#include <nbd/io/handoff.hpp>
#include <nbd/transmission/execution.hpp>

#include <cstddef>
#include <tuple>
#include <utility>

namespace nbd::session {

/// Makes the calls of a backend that blocks. They run on additional threads of the policy, so that
/// the client's strand does not wait for them.
template <class Policy>
struct offloading {
    template <class Window>
    class calls {
    public:
        struct state : offloaded_call, exports::async_mutex::waiter {
            calls* owner = nullptr;
        };

        calls(Window& w, Policy& policy) : window_{w}, policy_{policy}, finished_{w.executor()} {}

        template <class Slot>
        void begin(Slot& s)
        {
            if constexpr (has_read_now<backend_type> && !in_turn) {
                auto& disk = window_.disk();
                if (transmission::make_now(
                        disk.backend(), s.job, [&s] { return s.job.data(); }, disk))
                    return window_.finished(s);
            }
            s.owner = this;
            s.run = [](offloaded_call& call) noexcept {
                auto& slot = static_cast<Slot&>(call);
                slot.owner->make(slot);
            };
            s.granted = [](exports::async_mutex::waiter& v) {
                auto& slot = static_cast<Slot&>(v);
                return slot.owner->goes_on(slot);
            };
            ++under_way_;
            call_in_turn(s);
        }
        template <class Slot>
        void resize(Slot& s)
        {
            begin(s);
        }
        template <class Slot>
        void cancel(Slot&) noexcept
        {
        }
        template <class Slot>
        void end(Slot&) noexcept
        {
        }
        /// On the strand.
        [[nodiscard]] bool ended() const noexcept { return under_way_ == 0; }

    private:
        using backend_type = typename Window::opened_type::backend_type;

        /// One call at a time for all clients together. A call that waits for the lock uses no
        /// thread.
        static constexpr bool in_turn =
            concurrency_of<backend_type>() == concurrency::serialize_all;

        template <class Slot>
        void call_in_turn(Slot& s) noexcept
        {
            if constexpr (in_turn) {
                if (window_.disk().async_mutex().lock(s) && !goes_on(s))
                    window_.disk().async_mutex().unlock();
            } else {
                std::ignore = goes_on(s);
            }
        }
        /// The call has the lock, where one is needed. *Returns* false if no thread can run it: its
        /// request has failed then.
        template <class Slot>
        [[nodiscard]] bool goes_on(Slot& s) noexcept
        {
            try {
                policy_.offload(waiting_, s);
                return true;
            } catch (...) {
                s.job.refuse(protocol::error_value::enomem);
                finish(s);
                return false;
            }
        }

        /// On a thread of the policy.
        template <class Slot>
        void make(Slot& s) noexcept
        {
            auto& disk = window_.disk();
            if (window_.gone() || window_.is_useless(s.job.request()))
                s.job.settle(transmission::given_up());
            const bool over =
                s.job.make_calls(disk, [this](std::uint64_t) { return window_.abandoned(); });
            if constexpr (in_turn)
                disk.async_mutex().unlock();
            if (over)
                finish(s);
            else
                call_in_turn(s);  // after the calls that wait
        }

        /// From any thread.
        template <class Slot>
        void finish(Slot& s) noexcept
        {
            finished_.put(s, [this](Slot* first) {
                while (first != nullptr) {
                    --under_way_;
                    window_.finished(*std::exchange(first, first->next));
                }
                if (under_way_ == 0)
                    window_.ended();
            });
        }

        Window& window_;
        Policy& policy_;
        offloaded_calls waiting_;
        std::size_t under_way_ = 0;
        io::handoff<typename Window::executor_type, typename Window::slot> finished_;
    };
};

}  // namespace nbd::session
