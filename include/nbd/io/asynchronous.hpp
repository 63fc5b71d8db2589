// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/busy_poll.hpp>
#include <nbd/io/loop_poller.hpp>
#include <nbd/io/send_file.hpp>
#include <nbd/io/wakeup.hpp>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <type_traits>
#include <utility>

#include <sys/socket.h>

namespace nbd::io {

/// The asynchronous kind of I/O: an operation is one of Asio's, awaited on a concrete executor, which
/// must keep a client's handlers from running at the same time. The executor is named everywhere,
/// for Asio's default erases its type and costs a virtual call.
///
/// `Polls` says that the thread that runs the executor's io_context is the library's own, so that its event
/// loop may poll for a short time where that pays.
template <class Executor, bool Polls = false>
class asynchronous {
    using token = boost::asio::as_tuple_t<boost::asio::use_awaitable_t<Executor>>;

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

    /// Receives at least one byte, or says why not; the end of the stream is asio::error::eof.
    template <class Stream, class Buffers>
    [[nodiscard]] static auto read_some(Stream& stream, const Buffers& to)
    {
        return stream.async_read_some(to, token{});
    }

    /// As above. Lets the event loop poll meanwhile where that pays.
    template <class Stream, class Buffers>
    [[nodiscard]] auto read_some(Stream& stream, const Buffers& to,
                                 [[maybe_unused]] busy_poll& poll)
    {
        if constexpr (Polls) {
            if (poll.enabled()) {
                if (poller_ == nullptr)
                    poller_ = &loop_poller::of(stream.get_executor());
                if (poll.pays())
                    poller_->poll_for(poll.budget());
                poll.wait_begins();
            }
        }
        return read_some(stream, to);
    }

    /// Sends at least one byte, or says why not.
    template <class Stream, class Buffers>
    [[nodiscard]] static auto write_some(Stream& stream, const Buffers& from)
    {
        return stream.async_write_some(from, token{});
    }

    /// As above, for what was gathered: `pieces()` in memory, or a part of a file. A file that has
    /// become too short is asio::error::eof.
    template <class Stream, class Gathered>
    [[nodiscard]] static task<std::tuple<boost::system::error_code, std::size_t>>
    send_some(Stream& stream, const Gathered& from)
    {
        if constexpr (!socket<Stream>) {
            co_return co_await write_some(stream, from.pieces());
        } else {
            if (!from.file_follows())
                co_return co_await write_some(stream, from.pieces());
            if (!from.pieces().empty())
                co_return co_await stream.async_send(from.pieces(), MSG_MORE, token{});
            co_return co_await send_part_of_file(stream, from);
        }
    }

    /// Whether there is something to receive, or becomes so in that time. For what happens seldom: it
    /// looks again and again.
    template <class Stream>
    [[nodiscard]] static task<bool> readable_within(Stream& stream, std::chrono::milliseconds time)
    {
        using clock = std::chrono::steady_clock;
        boost::asio::basic_waitable_timer<clock, boost::asio::wait_traits<clock>, Executor> pause{
            stream.get_executor()};
        const auto end = clock::now() + time;
        boost::system::error_code error;
        while (stream.available(error) == 0 && !error && clock::now() < end) {
            pause.expires_after(std::chrono::milliseconds{5});
            std::ignore = co_await pause.async_wait(token{});
        }
        co_return !error && stream.available(error) != 0;
    }

    /// Whether there is nothing to receive now, so that memory may be of more use to others.
    template <class Stream>
    [[nodiscard]] static bool must_wait(Stream& stream)
    {
        boost::system::error_code error;
        return stream.available(error) == 0 && !error;
    }

    /// Lets the other clients of this thread have their turn.
    template <class Stream>
    [[nodiscard]] static auto yield(Stream& stream)
    {
        return boost::asio::post(stream.get_executor(), boost::asio::use_awaitable_t<Executor>{});
    }

private:
    template <class Stream, class Gathered>
    [[nodiscard]] static task<std::tuple<boost::system::error_code, std::size_t>>
    send_part_of_file(Stream& stream, const Gathered& from)
    {
        for (;;) {
            boost::system::error_code error;
            if (!stream.native_non_blocking())
                stream.native_non_blocking(true, error);
            const auto result = send_file_now(stream.native_handle(), from.file());
            if (std::get<0>(result) != boost::asio::error::would_block)
                co_return result;
            std::tie(error) = co_await stream.async_wait(Stream::wait_write, token{});
            if (error)
                co_return std::tuple{error, std::size_t{0}};
        }
    }

    loop_poller* poller_ = nullptr;  ///< found at the first receive
};

}  // namespace nbd::io
