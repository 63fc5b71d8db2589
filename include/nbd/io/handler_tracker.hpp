// SPDX-License-Identifier: MIT
#pragma once

#include <exception>
#include <utility>

namespace nbd::io {

/// Learns when a handler is destroyed, called or not. Asio destroys a handler without a call when
/// the initiation of an operation throws, and when an io_context ends.
///
/// The handler carries the tracker's mark. If the tracker is destroyed first, it is told nothing.
/// *Thread safety*: the tracker and its mark are used on one strand.
class handler_tracker {
public:
    class mark {
    public:
        mark(mark&& other) noexcept : of_{std::exchange(other.of_, nullptr)}
        {
            if (of_ != nullptr)
                of_->mark_ = this;
        }
        mark& operator=(mark&&) = delete;
        ~mark()
        {
            if (auto* const tracker = release())
                tracker->destroyed_(*tracker);
        }

        /// Unlinks the mark: its destruction is not reported. *Returns* the tracker; null if it is
        /// destroyed.
        [[nodiscard]] handler_tracker* release() noexcept
        {
            if (of_ != nullptr)
                of_->mark_ = nullptr;
            return std::exchange(of_, nullptr);
        }

    private:
        friend class handler_tracker;
        explicit mark(handler_tracker& of) noexcept : of_{&of} { of.mark_ = this; }

        handler_tracker* of_;
    };

    handler_tracker() = default;
    handler_tracker(const handler_tracker&) = delete;
    handler_tracker& operator=(const handler_tracker&) = delete;
    ~handler_tracker()
    {
        if (mark_ != nullptr)
            mark_->of_ = nullptr;
    }

    /// The mark exists.
    [[nodiscard]] bool active() const noexcept { return mark_ != nullptr; }
    /// *Returns* the mark; its destructor calls `destroyed`, unless it was released. Requires
    /// !active().
    [[nodiscard]] mark begin(void (*destroyed)(handler_tracker&)) noexcept
    {
        destroyed_ = destroyed;
        return mark{*this};
    }

private:
    mark* mark_ = nullptr;
    void (*destroyed_)(handler_tracker&) = nullptr;
};

/// The completion handler of a coroutine whose end a tracker learns.
struct tracked_completion {
    handler_tracker::mark mark;
    void operator()(const std::exception_ptr&) noexcept {}
};

}  // namespace nbd::io
