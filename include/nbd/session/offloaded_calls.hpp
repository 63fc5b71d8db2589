// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/threading_policy.hpp>
#include <nbd/io/mailbox.hpp>
#include <nbd/transmission/execution.hpp>

#include <cstddef>
#include <utility>

namespace nbd::session {

/// Makes the calls of a backend that blocks on threads of the policy that may wait for it, so that the
/// client's own strand goes on.
template <class Policy>
struct offloading {
    template <class Window>
    class calls {
    public:
        /// A call that blocks cannot be called back; it is waited for, and answered.
        static constexpr bool can_cancel = false;

        struct state : offloaded_call {
            calls* owner = nullptr;
        };

        calls(Window& w, Policy& policy) : window_{w}, policy_{policy}, finished_{w.executor()} {}

        template <class Slot>
        void begin(Slot& s)
        {
            s.owner = this;
            s.run = [](offloaded_call& call) noexcept {
                auto& slot = static_cast<Slot&>(call);
                slot.owner->make(slot);
            };
            policy_.offload(s);
            ++under_way_;
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
        /// On a thread of the policy.
        template <class Slot>
        void make(Slot& s) noexcept
        {
            try {
                auto& disk = window_.disk();
                if (window_.gone())
                    s.job.answered(s.job.request(), transmission::given_up());
                if (!transmission::make_some(disk.backend(), s.job, s.job.cargo(), disk,
                                             [this](std::uint64_t) { return window_.in_vain(); })) {
                    policy_.offload(s);  // behind the others
                    return;
                }
            } catch (...) {  // no memory
                s.job.answered(s.job.request(), transmission::current_failure());
            }
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
        std::size_t under_way_ = 0;
        io::mailbox<typename Window::executor_type, typename Window::slot> finished_;
    };
};

}  // namespace nbd::session
