// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/exports/program_calls.hpp>
#include <nbd/io/async_event.hpp>
#include <nbd/io/blocking.hpp>

#include <boost/asio/any_io_executor.hpp>

#include <coroutine>
#include <utility>

namespace nbd::session {

/// One call of a function of the program, see exports::program_function; the session waits for it.
/// `run(start)` calls `start(on)`, which begins the call with this object as its answer. *Returns*
/// what is awaited until the answer is complete.
/// *Cancellation*: none.
template <class Io, class Stream, class Result>
class program_call : public exports::answer<Result> {
public:
    explicit program_call(Stream& stream) : executor_{stream.get_executor()}
    {
        this->complete = [](exports::answer<Result>& done) noexcept {
            static_cast<program_call&>(done).completed_.notify();
        };
    }
    program_call(const program_call&) = delete;
    program_call& operator=(const program_call&) = delete;

    template <class Start>
    [[nodiscard]] auto run(Start start)
    {
        return completed_.wait_after(
            [this, start] { start(boost::asio::any_io_executor{executor_}); });
    }

private:
    using executor_type = typename Stream::executor_type;

    const executor_type executor_;
    io::async_event<executor_type> completed_;
};

/// On a thread of the client.
template <class Stream, class Result>
class program_call<io::blocking, Stream, Result> : public exports::answer<Result> {
public:
    explicit program_call(Stream&)
    {
        this->complete = [](exports::answer<Result>&) noexcept {};
    }
    program_call(const program_call&) = delete;
    program_call& operator=(const program_call&) = delete;

    template <class Start>
    [[nodiscard]] std::suspend_never run(Start start)
    {
        start(boost::asio::any_io_executor{});
        return {};
    }
};

}  // namespace nbd::session
