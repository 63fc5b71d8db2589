// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/io/busy_poll.hpp>
#include <nbd/io/send_file.hpp>
#include <nbd/io/wakeup.hpp>

#include <boost/asio/buffer.hpp>
#include <boost/asio/error.hpp>
#include <boost/system/error_code.hpp>

#include <algorithm>
#include <cerrno>
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

/// The blocking kind of I/O: an operation is one system call on the calling thread, and a task is
/// a coroutine that starts at once and never suspends. A session text written over an I/O kind runs as
/// plain blocking code with this one.
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
    /// Has run to its end when it is returned. `get()` gives its result, once, or throws what it
    /// threw; awaiting it does the same.
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

    using transfer = std::tuple<boost::system::error_code, std::size_t>;

    /// Receives at least one byte, or says why not; the end of the stream is asio::error::eof.
    template <class Stream, class Buffers>
    [[nodiscard]] static ready<transfer> read_some(Stream& stream, const Buffers& to)
    {
        return ready<transfer>{retried([&](auto& error) { return stream.read_some(to, error); })};
    }

    /// As above, and looks for a while before it sleeps, where that pays.
    template <class Stream, class Buffers>
    [[nodiscard]] static ready<transfer> read_some(Stream& stream, const Buffers& to,
                                                   busy_poll& poll)
    {
        if constexpr (socket<Stream>) {
            if (poll.enabled()) {
                const auto begun = busy_poll::clock::now();
                const auto waited = [&] { return busy_poll::clock::now() - begun; };
                ::ssize_t n = 0;
                const auto received = [&] {
                    if (poll.asks_first() && !is_readable(stream.native_handle(), 0))
                        return false;
                    n = ::recv(stream.native_handle(), to.data(), to.size(), MSG_DONTWAIT);
                    return n >= 0 || (errno != EAGAIN && errno != EINTR);
                };
                if (poll.pays() && poll.look(received) && n > 0) {
                    poll.waited(waited());
                    return ready<transfer>{
                        transfer{boost::system::error_code{}, static_cast<std::size_t>(n)}};
                }
                auto result = read_some(stream, to);
                poll.waited(waited());
                return result;
            }
        }
        return read_some(stream, to);
    }

    /// Sends at least one byte, or says why not.
    template <class Stream, class Buffers>
    [[nodiscard]] static ready<transfer> write_some(Stream& stream, const Buffers& from)
    {
        return ready<transfer>{
            retried([&](auto& error) { return stream.write_some(from, error); })};
    }

    /// As above, for what was gathered: `pieces()` in memory, or a part of a file. A file that has
    /// become too short is asio::error::eof.
    template <class Stream, class Gathered>
    [[nodiscard]] static ready<transfer> send_some(Stream& stream, const Gathered& from)
    {
        if constexpr (socket<Stream>) {
            if (from.pieces().empty())
                return ready<transfer>{retried_when_writable(stream, [&] {
                    const auto part = from.file();
                    return send_file_now(stream.native_handle(),
                                         part.part(0, std::min(part.length, at_a_time)));
                })};
            const int more = from.file_follows() ? MSG_MORE : 0;
            if (boost::asio::buffer_size(from.pieces()) <= at_a_time)
                return ready<transfer>{
                    retried([&](auto& error) { return stream.send(from.pieces(), more, error); })};
            return ready<transfer>{retried_when_writable(stream, [&] {
                return retried([&](auto& error) {
                    return stream.send(from.pieces(), more | MSG_DONTWAIT, error);
                });
            })};
        } else {
            return write_some(stream, from.pieces());
        }
    }

    /// Whether there is something to receive, or becomes so in that time. A stream that is no
    /// descriptor has it always.
    template <class Stream>
    [[nodiscard]] static ready<bool> readable_within(Stream& stream, std::chrono::milliseconds time)
    {
        if constexpr (requires { stream.native_handle(); }) {
            return ready<bool>{is_readable(stream.native_handle(), static_cast<int>(time.count()))};
        } else {
            return ready<bool>{true};
        }
    }

    /// Whether memory should be given back before the next wait: a thread of its own keeps it.
    template <class Stream>
    [[nodiscard]] static bool must_wait(Stream&) noexcept
    {
        return false;
    }

    /// Lets others have their turn: threads that block do so by themselves.
    template <class Stream>
    [[nodiscard]] static std::suspend_never yield(Stream&) noexcept
    {
        return {};
    }

private:
    [[nodiscard]] static bool is_readable(int descriptor, int milliseconds) noexcept
    {
        ::pollfd wanted{.fd = descriptor, .events = POLLIN, .revents = 0};
        return ::poll(&wanted, 1, milliseconds) > 0;
    }

    /// Bytes that one call may be busy with: a client that takes them, however slowly, is seen to do so.
    static constexpr std::size_t at_a_time = std::size_t{1} << 20;

    /// A send that would block has not failed: it goes on when there is room.
    template <class Stream, class Send>
    static transfer retried_when_writable(Stream& stream, Send send)
    {
        for (;;) {
            const auto result = send();
            if (std::get<0>(result) != boost::asio::error::would_block)
                return result;
            ::pollfd wanted{.fd = stream.native_handle(), .events = POLLOUT, .revents = 0};
            ::poll(&wanted, 1, -1);
        }
    }

    /// A signal that was handled on this thread is no reason to end a connection.
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
