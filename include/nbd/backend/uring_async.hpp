// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/backend/uring_operation.hpp>
#include <nbd/backend/uring_service.hpp>

#include <boost/asio/associated_allocator.hpp>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/cancellation_type.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/execution/context.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/query.hpp>
#include <boost/asio/recycling_allocator.hpp>
#include <boost/system/system_error.hpp>

#include <memory>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <utility>

namespace nbd {

/// An operation with the handler of its outcome, in memory from the handler's allocator.
template <class Outcome, class Handler>
class uring_waiting : uring_operation {
    struct release {
        void operator()(uring_waiting* op) const noexcept
        {
            memory_type memory{op->memory_};
            std::destroy_at(op);
            memory.deallocate(op, 1);
        }
    };
    using memory_type = typename std::allocator_traits<boost::asio::associated_allocator_t<
        Handler, boost::asio::recycling_allocator<void>>>::template rebind_alloc<uring_waiting>;
    using owner = std::unique_ptr<uring_waiting, release>;

public:
    uring_waiting(Handler&& handler, const memory_type& memory, const uring_request& asked)
        : uring_operation{asked, &finish}, memory_{memory}, handler_{std::move(handler)}
    {
    }

    static void start(uring_service& service, Handler&& handler, const uring_request& asked)
    {
        memory_type memory{boost::asio::get_associated_allocator(
            handler, boost::asio::recycling_allocator<void>{})};
        owner op{std::construct_at(memory.allocate(1), std::move(handler), memory, asked)};
        auto slot = boost::asio::get_associated_cancellation_slot(op->handler_);
        if (slot.is_connected())
            slot.assign([&service, op = op.get()](boost::asio::cancellation_type type) {
                if (type != boost::asio::cancellation_type::none)
                    service.cancel(*op);
            });
        service.start(*op);
        std::ignore = op.release();
    }

private:
    static void finish(uring_operation* finished, bool run)
    {
        owner op{static_cast<uring_waiting*>(finished)};
        if (!run)
            return;
        const auto executor = boost::asio::get_associated_executor(op->handler_);
        // The cancellation slot is cleared on the handler's executor: until then a cancellation may
        // arrive, and it must find the operation, though finished.
        boost::asio::dispatch(executor, [op = std::move(op)]() mutable {
            auto slot = boost::asio::get_associated_cancellation_slot(op->handler_);
            if (slot.is_connected())
                slot.clear();
            Handler handler{std::move(op->handler_)};
            auto result = op->template outcome<Outcome>();
            op.reset();
            std::move(handler)(std::move(result));
        });
    }

    [[no_unique_address]] memory_type memory_;
    Handler handler_;
};

/// Carries out `request` with the io_uring of the io_context that the token's executor belongs to,
/// and completes on that executor when all of it is done or has failed.
///
/// `Outcome`: nbd::failure, with the error for the client; std::error_code, with the system's
/// error; or uring_answer, with that and whether the operation was begun.
/// *Cancellation*: every type is honoured. The operation ends with std::errc::operation_canceled
/// when the kernel no longer uses the memory; a part of it may be done.
template <class Outcome, class Token>
auto async_uring(const uring_request& request, Token&& token)
{
    return boost::asio::async_initiate<Token, void(Outcome)>(
        [](auto handler, const uring_request& asked) {
            using waiting = uring_waiting<Outcome, decltype(handler)>;
            const auto executor = boost::asio::get_associated_executor(handler);
            auto& context = static_cast<boost::asio::io_context&>(
                boost::asio::query(executor, boost::asio::execution::context));
            int error = 0;
            try {
                boost::asio::use_service<uring_service>(context);
            } catch (const std::system_error& e) {
                error = e.code().value();
            } catch (const boost::system::system_error& e) {
                error = e.code().value();
            }
            if (error == 0)
                waiting::start(boost::asio::use_service<uring_service>(context), std::move(handler),
                               asked);
            else
                boost::asio::post(executor, [handler = std::move(handler), asked, error]() mutable {
                    uring_operation refused{asked, nullptr};
                    refused.refuse_with(error);
                    std::move(handler)(refused.outcome<Outcome>());
                });
        },
        token, request);
}

}  // namespace nbd
