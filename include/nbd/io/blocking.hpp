// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/at_once.hpp>
#include <nbd/io/busy_poll.hpp>
#include <nbd/io/gather.hpp>
#include <nbd/io/layered.hpp>
#include <nbd/io/send_file.hpp>
#include <nbd/io/wakeup.hpp>

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/system/error_code.hpp>

#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>

#include <poll.h>
#include <sys/socket.h>

namespace nbd::io {

/// Blocking I/O: an operation is a system call on the calling thread, and a task is a coroutine
/// that starts at once and never suspends. A session that is written as coroutines runs as plain
/// blocking code with it.
class blocking {
    template <class T>
    struct result {
        std::optional<T> value;
        std::exception_ptr thrown;
        void return_value(T v) { value.emplace(std::move(v)); }
        T take() { return std::move(*value); }
    };

    template <class T>
        requires std::is_void_v<T>
    struct result<T> {
        std::exception_ptr thrown;
        void return_void() noexcept {}
        void take() noexcept {}
    };

    template <class T>
    class ready {
    public:
        explicit ready(T value) : value_{std::move(value)} {}
        [[nodiscard]] bool await_ready() const noexcept { return true; }
        void await_suspend(std::coroutine_handle<>) const noexcept {}
        T await_resume() { return std::move(value_); }

    private:
        T value_;
    };

public:
    /// A coroutine that has run to its end when it is returned. `get()` returns its result, once,
    /// or throws its exception; so does awaiting it.
    template <class T>
    class [[nodiscard]] task {
    public:
        struct promise_type : result<T> {
            task get_return_object() { return task{handle::from_promise(*this)}; }
            std::suspend_never initial_suspend() noexcept { return {}; }
            std::suspend_always final_suspend() noexcept { return {}; }
            void unhandled_exception() noexcept { this->thrown = std::current_exception(); }
        };

        task(task&& other) noexcept : frame_{std::exchange(other.frame_, {})} {}
        task& operator=(task&&) = delete;
        ~task()
        {
            if (frame_)
                frame_.destroy();
        }

        T get()
        {
            if (frame_.promise().thrown)
                std::rethrow_exception(frame_.promise().thrown);
            return frame_.promise().take();
        }

        [[nodiscard]] bool await_ready() const noexcept { return true; }
        void await_suspend(std::coroutine_handle<>) const noexcept {}
        T await_resume() { return get(); }

    private:
        using handle = std::coroutine_handle<promise_type>;
        explicit task(handle frame) noexcept : frame_{frame} {}
        handle frame_;
    };

    using wakeup = thread_wakeup;

    /// Receives at least one byte. *Errors*: asio::error::eof at the end of the stream; those of
    /// recv.
    template <class Stream, class Buffers>
    [[nodiscard]] static ready<transfer> read_some(Stream& stream, const Buffers& to)
    {
        if constexpr (layered<Stream>)
            return ready<transfer>{when_ready(stream, [&] { return stream.receive_now(to); })};
        else
            return ready<transfer>{
                retried([&](auto& failed) { return stream.read_some(to, failed); })};
    }

    /// As above. Polls for a short time before the thread sleeps, where that pays. A thread whose
    /// stock `holds_much()` calls `share_stock()` when it has slept for `Stock::idle_after`.
    template <class Stock, class Stream, class Buffers>
    [[nodiscard]] static ready<transfer> read_some(Stream& stream, const Buffers& to,
                                                   busy_poll& poll)
    {
        if constexpr (on_socket<Stream>) {
            const auto sleeps = [&] {
                if (Stock::holds_much()
                    && !is_readable(stream, static_cast<int>(Stock::idle_after.count())))
                    Stock::share_stock();
                return read_some(stream, to).await_resume();
            };
            if (poll.enabled()) {
                const auto begun = busy_poll::clock::now();
                transfer received{boost::asio::error::would_block, 0};
                const auto receives = [&] {
                    if (!poll.asks_first() || is_readable(stream, 0))
                        received = read_at_once(stream, to);
                    return std::get<0>(received) != boost::asio::error::would_block;
                };
                if (!poll.pays() || !poll.look(receives))
                    received = poll.while_asleep(sleeps);
                poll.waited(busy_poll::clock::now() - begun);
                return ready<transfer>{received};
            }
            return ready<transfer>{sleeps()};
        } else {
            return read_some(stream, to);
        }
    }

    /// Sends at least one byte. *Errors*: those of send.
    template <class Stream, class Buffers>
    [[nodiscard]] static ready<transfer> write_some(Stream& stream, const Buffers& from)
    {
        if constexpr (layered<Stream>)
            return ready<transfer>{when_ready(stream, [&] { return write_at_once(stream, from); })};
        else
            return ready<transfer>{
                retried([&](auto& failed) { return stream.write_some(from, failed); })};
    }

    /// Sends some of the gathered data, see send_next. A stream that is not a socket always returns
    /// asio::error::would_block, after which the caller awaits `send_some`.
    template <class Stream, class Gathered>
    [[nodiscard]] static transfer try_send(Stream& stream, const Gathered& from) noexcept
    {
        if constexpr (socket<Stream>) {
            // A large send returns when a part is sent, so that the progress of a slow client is
            // seen.
            const int flags = from.gathered() > at_a_time ? MSG_DONTWAIT : 0;
            for (;;) {
                const auto result = send_next(stream.native_handle(), from, flags, at_a_time);
                if (std::get<0>(result) != boost::asio::error::would_block)
                    return result;
                ::pollfd wanted{.fd = stream.native_handle(), .events = POLLOUT, .revents = 0};
                ::poll(&wanted, 1, -1);
            }
        } else if constexpr (layered<Stream>) {
            return when_ready(stream, [&] { return stream.send_now(from.pieces(), at_a_time); });
        } else {
            return {boost::asio::error::would_block, 0};
        }
    }
    /// As `try_send`, and waits until the stream takes some.
    template <class Stream, class Gathered>
    [[nodiscard]] static ready<transfer> send_some(Stream& stream, const Gathered& from)
    {
        if constexpr (on_socket<Stream>)
            return ready<transfer>{try_send(stream, from)};
        else
            return write_some(stream, from.pieces());
    }

    /// Waits until the socket of a layered stream is ready for the operation that would have
    /// blocked.
    template <layered Stream>
    [[nodiscard]] static ready<std::tuple<boost::system::error_code>>
    wait_ready(Stream& stream) noexcept
    {
        block_until_ready(stream);
        return ready<std::tuple<boost::system::error_code>>{{}};
    }

    /// Whether there are bytes to receive, now or within `time`. True for a stream that has no
    /// descriptor.
    template <class Stream>
    [[nodiscard]] static ready<bool> readable_within(Stream& stream, std::chrono::milliseconds time)
    {
        if constexpr (on_socket<Stream>) {
            return ready<bool>{is_readable(stream, static_cast<int>(time.count()))};
        } else {
            return ready<bool>{true};
        }
    }

    /// Whether the next receive will wait, so that memory should be released before it. Always
    /// false: each client has a thread, which keeps its memory.
    template <class Stream>
    [[nodiscard]] static bool must_wait(Stream&) noexcept
    {
        return false;
    }

    /// Bytes of work for a client after which its replies are sent: that shows whether it is still
    /// there.
    [[nodiscard]] static std::uint64_t turn() noexcept { return std::uint64_t{32} << 20; }
    /// Does nothing: other clients have their own threads.
    template <class Stream>
    [[nodiscard]] static std::suspend_never yield(Stream&) noexcept
    {
        return {};
    }

private:
    /// Repeats an operation of a layered stream until it does not wait.
    template <class Stream, class Operation>
    [[nodiscard]] static transfer when_ready(Stream& stream, Operation operation) noexcept
    {
        for (;;) {
            const transfer result = operation();
            if (std::get<0>(result) != boost::asio::error::would_block)
                return result;
            block_until_ready(stream);
        }
    }

    /// Largest number of bytes for one call, so that the progress of a slow client is seen.
    static constexpr std::size_t at_a_time = std::size_t{1} << 20;

    /// Repeats an operation that a signal handler has interrupted.
    template <class Operation>
    static transfer retried(Operation operation)
    {
        for (;;) {
            boost::system::error_code error;
            const auto bytes = operation(error);
            if (error != boost::asio::error::interrupted)
                return {error, bytes};
        }
    }
};

}  // namespace nbd::io
