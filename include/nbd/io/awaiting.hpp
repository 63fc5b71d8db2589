// SPDX-License-Identifier: MIT
#pragma once

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <chrono>
#include <tuple>

namespace nbd::io {

/// The awaiting colour of I/O: an operation is one of Asio's, awaited on a concrete executor, which
/// must keep a client's handlers from running at the same time. The executor is named everywhere,
/// for Asio's default erases its type and costs a virtual call.
template <class Executor>
class awaiting {
    using token = boost::asio::as_tuple_t<boost::asio::use_awaitable_t<Executor>>;

public:
    template <class T>
    using task = boost::asio::awaitable<T, Executor>;

    /// Receives at least one byte, or says why not; the end of the stream is asio::error::eof.
    template <class Stream, class Buffers>
    [[nodiscard]] static auto read_some(Stream& stream, const Buffers& to)
    {
        return stream.async_read_some(to, token{});
    }

    /// Sends at least one byte, or says why not.
    template <class Stream, class Buffers>
    [[nodiscard]] static auto write_some(Stream& stream, const Buffers& from)
    {
        return stream.async_write_some(from, token{});
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

    /// Lets the other clients of this thread have their turn.
    template <class Stream>
    [[nodiscard]] static auto yield(Stream& stream)
    {
        return boost::asio::post(stream.get_executor(), boost::asio::use_awaitable_t<Executor>{});
    }
};

}  // namespace nbd::io
