// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/backend/uring_operation.hpp>

#include <boost/asio/execution_context.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/system/error_code.hpp>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <utility>

#include <poll.h>

namespace nbd {

/// The io_uring of an io_context, created when the context's first operation starts. All operations
/// that are started in one turn of the event loop are submitted by one system call at the end of
/// that turn. One wake-up takes all completions that have arrived. The context has work while an
/// operation is in progress.
///
/// *Thread safety*: any thread may start and cancel; any number of threads may run the context.
/// *Lifetime*: the destruction of the context cancels the operations in progress and waits until
/// the kernel no longer uses their memory.
class uring_service : public boost::asio::execution_context::service {
public:
    static inline boost::asio::execution_context::id id{};
    using key_type = uring_service;

    /// *Errors*: std::system_error where the kernel refuses another ring.
    explicit uring_service(boost::asio::io_context& context)
        : service{context}, context_{context}, events_{context, ring_.ring_fd},
          retry_timer_{context}
    {
    }

    /// Checks that the kernel allows io_uring. *Errors*: std::system_error, whose text names the
    /// reasons why it may not.
    static void probe()
    {
        ring tried{1};
        io_uring_prep_nop(io_uring_get_sqe(&tried));
        // Some seccomp profiles permit io_uring_setup(2) and refuse io_uring_enter(2).
        if (const int error = io_uring_submit(&tried);
            error < 0 && error != -EINTR && !is_shortage(error))
            throw std::system_error{-error, std::system_category(), ring::refusal(error)};
    }

    /// Starts an operation. It must stay at its address until its `end` is called: on a thread that
    /// runs the context, in a later turn of the event loop.
    void start(uring_operation& op)
    {
        const std::lock_guard lock{mutex_};
        plan_turn();
        waiting_.push(op, uring_operation::stage::waiting);
    }

    /// Asks the kernel to cancel the operation. Its `end` is called as usual: with
    /// operation_canceled, or with its result if the cancellation came too late.
    void cancel(uring_operation& op)
    {
        using enum uring_operation::stage;
        const std::lock_guard lock{mutex_};
        op.cancel_wanted = true;
        if (op.at != waiting && op.at != submitted)
            return;
        plan_turn();
        if (op.at == waiting) {
            waiting_.remove(op);
            op.fail_with(ECANCELED);
            finished_.push(op, finished);
        } else {
            submitted_.remove(op);
            cancelling_.push(op, cancelling);
        }
    }

private:
    struct ring : io_uring {
        explicit ring(unsigned requests) : io_uring{}
        {
            // Completions are processed when a thread enters the kernel next, without interrupting
            // it.
            int error = io_uring_queue_init(requests, this, IORING_SETUP_COOP_TASKRUN);
            if (error == -EINVAL)  // before Linux 5.19
                error = io_uring_queue_init(requests, this, 0);
            if (error < 0)
                throw std::system_error{-error, std::system_category(), refusal(error)};
        }
        ring(const ring&) = delete;
        ring& operator=(const ring&) = delete;
        ~ring() { io_uring_queue_exit(this); }

        static const char* refusal(int error) noexcept
        {
            return error == -ENOSYS || error == -EPERM || error == -EOPNOTSUPP
                ? "nbd: the kernel refuses io_uring (too old, switched off by the sysctl "
                  "kernel.io_uring_disabled, or by the seccomp profile of a container)"
                : "nbd: io_uring";
        }
    };

    /// Whether a submission failed because the kernel is short of resources.
    [[nodiscard]] static bool is_shortage(int error) noexcept
    {
        return error == -EAGAIN || error == -EBUSY || error == -ENOMEM;
    }

    /// Entries of the submission queue. The completion queue has twice as many: room for as many
    /// operations and the cancellation of each, so it cannot overflow.
    static constexpr unsigned entries = 128;

    /// Called when no other thread uses the context.
    void shutdown() noexcept override
    {
        using enum uring_operation::stage;
        events_.release();
        retry_timer_.cancel();
        turn_planned_ = true;  // the event loop has ended, so plan no turn
        while (auto* const op = waiting_.pop())
            finished_.push(*op, finished);
        while (auto* const op = submitted_.pop()) {
            op->cancel_wanted = true;
            cancelling_.push(*op, cancelling);
        }
        while (under_way_ != 0) {
            kernel_short_ = false;
            submit();
            reap();
            ::pollfd wanted{.fd = ring_.ring_fd, .events = POLLIN, .revents = 0};
            if (under_way_ != 0)
                ::poll(&wanted, 1, has_more_to_submit() ? 1 : -1);
        }
        while (auto* const op = finished_.empty() ? waiting_.pop() : finished_.pop())
            op->end(op, false);
    }

    /// Submits and reaps. Runs after the other handlers of a turn of the event loop, and at each
    /// wake-up.
    void turn()
    {
        uring_operation_list ended;
        {
            const std::lock_guard lock{mutex_};
            submit();
            reap();
            if (under_way_ != 0 && !listening_)
                listen();
            else if (under_way_ == 0 && listening_)
                events_.cancel();  // otherwise the context never runs out of work
            if (has_more_to_submit()) {
                if (kernel_short_)
                    retry_later();
                else
                    plan_turn();
            }
            ended = std::exchange(finished_, {});
        }
        try {
            while (auto* const op = ended.pop())
                op->end(op, true);
        } catch (...) {  // thrown by a handler; a later turn ends the other operations
            const std::lock_guard lock{mutex_};
            while (auto* const op = ended.pop())
                finished_.push(*op, uring_operation::stage::finished);
            plan_turn();
            throw;
        }
    }
    void plan_turn()
    {
        if (turn_planned_)
            return;
        boost::asio::post(context_, [this] {
            {
                const std::lock_guard lock{mutex_};
                turn_planned_ = false;
            }
            turn();
        });
        turn_planned_ = true;
    }
    /// Waits until the ring's descriptor is readable, which it is while there are completions. Each
    /// new wait checks at once, so no completion is missed and the descriptor needs no read.
    void listen()
    {
        events_.async_wait(events_.wait_read, [this](const boost::system::error_code&) {
            {
                const std::lock_guard lock{mutex_};
                listening_ = false;
            }
            turn();
        });
        listening_ = true;
    }
    /// Plans another attempt, in 10 ms, after the kernel has run short of resources. A completion
    /// also causes one, because it may have freed resources.
    void retry_later()
    {
        if (retry_planned_)
            return;
        retry_timer_.expires_after(std::chrono::milliseconds{10});
        retry_timer_.async_wait([this](const boost::system::error_code&) {
            {
                const std::lock_guard lock{mutex_};
                kernel_short_ = retry_planned_ = false;
            }
            turn();
        });
        retry_planned_ = true;
    }

    [[nodiscard]] bool has_more_to_submit() const noexcept
    {
        if (broken_ != 0)
            return !waiting_.empty();
        return io_uring_sq_ready(&ring_) != 0 || !cancelling_.empty()
            || (!waiting_.empty() && operations_ < entries);
    }
    void submit() noexcept
    {
        if (kernel_short_)
            return;
        if (broken_ == 0)
            fill();
        const int result = broken_ == 0 ? io_uring_submit(&ring_) : -broken_;
        kernel_short_ = is_shortage(result);
        if (result >= 0 || result == -EINTR || kernel_short_)
            return;
        // A permanent error: the kernel will never take the entries that it has not taken yet.
        if (broken_ == 0) {
            broken_ = -result;
            for (auto n = io_uring_sq_ready(&ring_); n != 0; --n)
                settle(ring_.sq.sqes[(ring_.sq.sqe_tail - n) % entries].user_data, result, false);
        }
        while (auto* const op = waiting_.pop()) {
            op->refuse_with(broken_);
            finished_.push(*op, uring_operation::stage::finished);
        }
    }
    void fill() noexcept
    {
        using enum uring_operation::stage;
        io_uring_sqe* entry = nullptr;
        while (!cancelling_.empty() && (entry = io_uring_get_sqe(&ring_)) != nullptr) {
            auto* const op = cancelling_.pop();
            io_uring_prep_cancel(entry, op, 0);
            entry->user_data = 0;
            cancelled_.push(*op, cancelled);
            ++under_way_;
        }
        while (!waiting_.empty() && operations_ < entries
               && (entry = io_uring_get_sqe(&ring_)) != nullptr) {
            auto* const op = waiting_.pop();
            op->request.write_to(*entry);
            io_uring_sqe_set_data(entry, op);
            submitted_.push(*op, submitted);
            ++operations_;
            ++under_way_;
        }
    }
    void reap() noexcept
    {
        unsigned head = 0;
        unsigned taken = 0;
        io_uring_cqe* completion = nullptr;
        io_uring_for_each_cqe(&ring_, head, completion)
        {
            kernel_short_ = completion->res == -EAGAIN;
            settle(completion->user_data, completion->res, true);
            ++taken;
        }
        io_uring_cq_advance(&ring_, taken);
    }
    void settle(std::uint64_t user_data, int result, bool begun) noexcept
    {
        using enum uring_operation::stage;
        --under_way_;
        if (user_data == 0)  // a cancellation
            return;
        auto& op = *reinterpret_cast<uring_operation*>(static_cast<std::uintptr_t>(user_data));
        --operations_;
        (op.at == submitted        ? submitted_
             : op.at == cancelling ? cancelling_
                                   : cancelled_)
            .remove(op);
        if (begun ? op.unfinished_after(result) : op.refuse_with(-result))
            waiting_.push(op, waiting);
        else
            finished_.push(op, finished);
    }

    boost::asio::io_context& context_;
    ring ring_{entries};
    boost::asio::posix::basic_stream_descriptor<boost::asio::io_context::executor_type> events_;
    boost::asio::steady_timer retry_timer_;
    std::mutex mutex_;
    uring_operation_list waiting_;     // not submitted
    uring_operation_list submitted_;   // in the kernel
    uring_operation_list cancelling_;  // in the kernel; the cancellation is not submitted
    uring_operation_list cancelled_;   // in the kernel; the cancellation is submitted
    uring_operation_list finished_;    // their `end` is to be called
    unsigned operations_ = 0;          // in the kernel
    unsigned under_way_ = 0;           // expected completions, with those of cancellations
    int broken_ = 0;                   // the permanent error of the ring
    bool turn_planned_ = false;
    bool listening_ = false;
    bool kernel_short_ = false;  // the kernel was short of resources when last asked
    bool retry_planned_ = false;
};

}  // namespace nbd
