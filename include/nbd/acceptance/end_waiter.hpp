// SPDX-License-Identifier: MIT
#pragma once

#include <boost/asio/associated_allocator.hpp>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>

#include <memory>
#include <utility>

namespace nbd::acceptance {

/// Waits for a listener to end, then calls a completion handler of the program with an error code,
/// on the handler's executor. Memory comes from the handler's allocator.
template <class Listener, class Handler, class Executor>
class end_waiter {
    using handler_executor = boost::asio::associated_executor_t<Handler, Executor>;

public:
    using allocator_type = boost::asio::associated_allocator_t<Handler>;

    /// A null `listener` has ended. `otherwise` is the executor for a handler without one.
    end_waiter(std::shared_ptr<Listener> listener, Handler handler, const Executor& otherwise,
               boost::system::error_code result)
        : listener_{std::move(listener)},
          work_{boost::asio::get_associated_executor(handler, otherwise)},
          handler_{std::move(handler)}, result_{result}
    {
    }
    [[nodiscard]] allocator_type get_allocator() const noexcept
    {
        return boost::asio::get_associated_allocator(handler_);
    }

    /// Consumes this object. `cancel(listener)` is called where the program cancels the operation.
    template <class Cancel>
    void start(Cancel cancel)
    {
        if (listener_ == nullptr) {
            delivered_ = true;
            const auto executor = work_.get_executor();
            boost::asio::post(executor, std::move(*this));
            return;
        }
        auto slot = boost::asio::get_associated_cancellation_slot(handler_);
        if (slot.is_connected())
            slot.assign([weak = std::weak_ptr{listener_}, cancel](boost::asio::cancellation_type) {
                if (const auto running = weak.lock())
                    cancel(*running);
            });
        const auto control = listener_->control();
        boost::asio::post(control, std::move(*this));
    }

    /// The three steps: wait, on the listener's executor; change to the handler's executor;
    /// complete.
    void operator()(const boost::system::error_code& = {})
    {
        if (delivered_) {
            work_.reset();
            auto slot = boost::asio::get_associated_cancellation_slot(handler_);
            if (slot.is_connected())
                slot.clear();
            auto handler = std::move(handler_);
            std::move(handler)(result_);
        } else if (auto& listener = *listener_; !listener.finished()) {
            listener.wait_for_end(std::move(*this));
        } else {
            result_ = listener.result();
            listener_.reset();
            delivered_ = true;
            const auto executor = work_.get_executor();
            boost::asio::dispatch(executor, std::move(*this));
        }
    }

private:
    std::shared_ptr<Listener> listener_;
    boost::asio::executor_work_guard<handler_executor> work_;
    Handler handler_;
    boost::system::error_code result_;
    bool delivered_ = false;
};

}  // namespace nbd::acceptance
