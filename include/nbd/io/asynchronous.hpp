// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/at_once.hpp>
#include <nbd/io/busy_poll.hpp>
#include <nbd/io/fair_turn.hpp>
#include <nbd/io/gather.hpp>
#include <nbd/io/handler_memory.hpp>
#include <nbd/io/layered.hpp>
#include <nbd/io/loop_poller.hpp>
#include <nbd/io/operation.hpp>
#include <nbd/io/send_file.hpp>
#include <nbd/io/wakeup.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>

#include <sys/socket.h>

namespace nbd::io {

/// Asynchronous I/O: an operation is one of Asio's, awaited on a concrete executor. The handlers of
/// one client must not run concurrently on it. The type of the executor is a parameter, because
/// Asio's default executor erases the type and costs a virtual call.
///
/// `Polls`: the library runs the executor's io_context on a thread of its own, so the event loop
/// may poll for a short time before it sleeps.
template <class Executor, bool Polls = false>
class asynchronous {
public:
    template <class T>
    using task = boost::asio::awaitable<T, Executor>;
    using wakeup = strand_wakeup<Executor>;

    /// Awaits a coroutine of another executor type; it runs on this coroutine's executor.
    template <class T, class Other>
    [[nodiscard]] static task<T> await(boost::asio::awaitable<T, Other> other)
    {
        if constexpr (std::is_same_v<Other, Executor>)
            co_return co_await std::move(other);
        else
            co_return co_await boost::asio::co_spawn(co_await boost::asio::this_coro::executor,
                                                     std::move(other),
                                                     boost::asio::use_awaitable_t<Executor>{});
    }

    /// Receives at least one byte. *Errors*: asio::error::eof at the end of the stream; those of
    /// recv.
    template <class Stream, class Buffers>
    [[nodiscard]] static auto read_some(Stream& stream, const Buffers& to)
    {
        return make_operation<std::size_t>(
            [&stream, to](auto handler) { begin_read(stream, to, std::move(handler)); });
    }

    /// As above, one at a time and without an allocation. The event loop polls during the wait
    /// where that pays. `Stock` is not used: other clients of the thread need its memory.
    template <class Stock, class Stream, class Buffers>
    [[nodiscard]] auto read_some(Stream& stream, const Buffers& to,
                                 [[maybe_unused]] busy_poll& poll)
    {
        turn_.waits(stream.get_executor());
        if constexpr (Polls) {
            if (poll.enabled()) {
                if (poller_ == nullptr)
                    poller_ = &loop_poller::of(stream.get_executor());
                if (poll.pays())
                    poller_->poll_for(poll.budget());
                poll.wait_begins();
            }
        }
        return make_operation<std::size_t>([this, &stream, to](auto handler) {
            begin_read(stream, to,
                       boost::asio::bind_allocator(handler_memory::allocator<std::byte>{receiving_},
                                                   std::move(handler)));
        });
    }

    /// Sends at least one byte. *Errors*: those of send.
    template <class Stream, class Buffers>
    [[nodiscard]] static auto write_some(Stream& stream, const Buffers& from)
    {
        return make_operation<std::size_t>([&stream, from](auto handler) {
            if constexpr (layered<Stream>)
                attempts{stream, [&stream, from] { return write_at_once(stream, from); },
                         std::move(handler)}
                    .start();
            else
                stream.async_write_some(from, std::move(handler));
        });
    }

    /// Sends some of the gathered data, see send_next, without waiting. *Errors*: also
    /// asio::error::would_block, after which the caller awaits `send_some`. A stream that is not a
    /// socket always returns it.
    template <class Stream, class Gathered>
    [[nodiscard]] transfer try_send(Stream& stream, const Gathered& from)
    {
        if constexpr (socket<Stream>) {
            boost::system::error_code ignored;
            if (!stream.native_non_blocking())  // sendfile(2) has no flag for it
                stream.native_non_blocking(true, ignored);
            return send_next(stream.native_handle(), from, MSG_DONTWAIT, turn_.length());
        } else if constexpr (layered<Stream>) {
            return stream.send_now(from.pieces(), std::min(at_a_time, turn_.length()));
        } else {
            return {boost::asio::error::would_block, 0};
        }
    }
    /// As `try_send`, and waits until the stream takes some; one at a time and without an
    /// allocation. *Errors*: also asio::error::would_block, if the stream was only ready for a
    /// moment: the caller repeats the call. *Lifetime*: `from` lives until it completes.
    template <class Stream, class Gathered>
    [[nodiscard]] auto send_some(Stream& stream, const Gathered& from)
    {
        const auto bound = [this](auto handler) {
            return boost::asio::bind_allocator(handler_memory::allocator<std::byte>{sending_},
                                               std::move(handler));
        };
        if constexpr (on_socket<Stream>)
            return make_operation<std::size_t>([this, bound, &stream, &from](auto handler) {
                auto sends = bound([this, &stream, &from, handler = std::move(handler)](
                                       const boost::system::error_code& waited) mutable {
                    const auto [failed, n] = waited ? transfer{waited, 0} : try_send(stream, from);
                    handler(failed, n);
                });
                if constexpr (layered<Stream>)
                    async_wait_ready(stream, std::move(sends));
                else
                    stream.async_wait(Stream::wait_write, std::move(sends));
            });
        else
            return make_operation<std::size_t>([bound, &stream, &from](auto handler) {
                stream.async_write_some(from.pieces(), bound(std::move(handler)));
            });
    }

    /// Waits until the socket of a layered stream is ready for the operation that would have
    /// blocked.
    template <layered Stream>
    [[nodiscard]] static auto wait_ready(Stream& stream)
    {
        return make_operation(
            [&stream](auto handler) { async_wait_ready(stream, std::move(handler)); });
    }

    /// Whether there are bytes to receive, now or within `time`. Checks every 5 ms, so it is for
    /// rare cases.
    template <class Stream>
    [[nodiscard]] static task<bool> readable_within(Stream& stream, std::chrono::milliseconds time)
    {
        using clock = std::chrono::steady_clock;
        boost::asio::basic_waitable_timer<clock, boost::asio::wait_traits<clock>, Executor> pause{
            stream.get_executor()};
        const auto end = clock::now() + time;
        boost::system::error_code error;
        while (available(stream, error) == 0 && !error && clock::now() < end) {
            pause.expires_after(std::chrono::milliseconds{5});
            const auto [failed] = co_await make_operation(
                [&pause](auto handler) { pause.async_wait(std::move(handler)); });
            if (failed)
                break;
        }
        co_return !error && available(stream, error) != 0;
    }

    /// Whether the next receive will wait, so that memory should be released before it.
    template <class Stream>
    [[nodiscard]] static bool must_wait(Stream& stream)
    {
        boost::system::error_code error;
        return available(stream, error) == 0 && !error;
    }

    /// Bytes of work for a client after which other clients of its context have their turn.
    [[nodiscard]] std::uint64_t turn() const noexcept { return turn_.length(); }
    /// Lets other clients of this context run. Not during `send_some`, whose memory it uses.
    template <class Stream>
    [[nodiscard]] auto yield(Stream& stream)
    {
        return yield(stream, sending_);
    }
    template <class Stream>
    [[nodiscard]] auto yield(Stream& stream, handler_memory& memory)
    {
        return make_operation([this, home = stream.get_executor(), &memory](auto handler) {
            turn_.end();
            // The event loop queues what it finds ready behind the first handler.
            post(home, memory, [this, home, &memory, handler = std::move(handler)]() mutable {
                post(home, memory, [this, handler = std::move(handler)]() mutable {
                    turn_.begin();
                    handler();
                });
            });
        });
    }
    /// Resumes the coroutine on `home`, for one that a backend may have resumed on another thread.
    [[nodiscard]] static auto resume_on(const Executor& home, handler_memory& memory)
    {
        return make_operation(
            [home, &memory](auto handler) { post(home, memory, std::move(handler)); });
    }

private:
    template <class Handler>
    static void post(const Executor& home, handler_memory& memory, Handler handler)
    {
        boost::asio::post(home,
                          boost::asio::bind_allocator(handler_memory::allocator<std::byte>{memory},
                                                      std::move(handler)));
    }
    /// Largest number of bytes for one send through a layer, so that progress is seen.
    static constexpr std::size_t at_a_time = std::size_t{1} << 20;

    template <class Stream>
    [[nodiscard]] static std::size_t available(Stream& stream, boost::system::error_code& error)
    {
        if constexpr (layered<Stream>)
            return stream.has_pending() ? 1 : stream.next_layer().available(error);
        else
            return stream.available(error);
    }
    template <class Stream, class Buffers, class Handler>
    static void begin_read(Stream& stream, const Buffers& to, Handler handler)
    {
        if constexpr (layered<Stream>)
            attempts{stream, [&stream, to] { return stream.receive_now(to); }, std::move(handler)}
                .start();
        else
            stream.async_read_some(to, std::move(handler));
    }

    loop_poller* poller_ = nullptr;  ///< found at the first receive
    /// Asio keeps the memory of a few operations for each thread, not for each of many clients.
    handler_memory receiving_;
    handler_memory sending_;
    fair_turn turn_;
};

}  // namespace nbd::io
