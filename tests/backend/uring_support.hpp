// SPDX-License-Identifier: MIT
// Helpers of the io_uring tests: running awaitables, and pipes.
#pragma once

#include "catch.hpp"
#include <nbd/backend/uring_async.hpp>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <exception>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include <unistd.h>

// gcc 12 inlines Asio's operator new for coroutines, but not its operator delete.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

namespace nbd_test {

namespace asio = boost::asio;
using executor = asio::io_context::executor_type;
template <class T>
using task = asio::awaitable<T, executor>;

/// Why the kernel does not offer io_uring; empty if it does.
inline std::string uring_refusal()
{
    try {
        nbd::uring_service::probe();
        return {};
    } catch (const std::system_error& e) {
        return e.what();
    }
}
#define NBD_NEED_URING()                                                                           \
    do {                                                                                           \
        if (const auto refusal = nbd_test::uring_refusal(); !refusal.empty())                      \
            NBD_SKIP(refusal);                                                                     \
    } while (false)

/// Runs a task to its end, and the context until it has no work.
template <class T>
T run(asio::io_context& context, task<T> started)
{
    std::optional<T> result;
    std::exception_ptr thrown;
    asio::co_spawn(context, std::move(started), [&](std::exception_ptr e, T value) {
        thrown = e;
        if (!e)
            result = std::move(value);
    });
    context.restart();
    context.run();
    if (thrown)
        std::rethrow_exception(thrown);
    REQUIRE(result);
    return std::move(*result);
}

/// A pipe, for reads that wait.
class pipe_pair {
public:
    pipe_pair()
    {
        if (::pipe2(ends_, O_CLOEXEC) != 0)
            throw std::system_error{errno, std::system_category(), "pipe2"};
    }
    pipe_pair(const pipe_pair&) = delete;
    pipe_pair& operator=(const pipe_pair&) = delete;
    ~pipe_pair()
    {
        close_out();
        ::close(ends_[1]);
    }
    [[nodiscard]] int out() const { return ends_[0]; }
    [[nodiscard]] int in() const { return ends_[1]; }
    void close_out()
    {
        if (ends_[0] >= 0)
            ::close(std::exchange(ends_[0], -1));
    }
    /// Writes until the pipe is full.
    void fill() const
    {
        const std::string some(1 << 12, 'x');
        ::fcntl(ends_[1], F_SETFL, O_NONBLOCK);
        while (::write(ends_[1], some.data(), some.size()) > 0) {
        }
        ::fcntl(ends_[1], F_SETFL, 0);
    }
    void say(std::string_view s) const
    {
        if (::write(ends_[1], s.data(), s.size()) != static_cast<ssize_t>(s.size()))
            throw std::system_error{errno, std::system_category(), "write"};
    }
    /// The bytes that were not read.
    [[nodiscard]] std::string rest() const
    {
        std::string all(1 << 16, '\0');
        ::fcntl(ends_[0], F_SETFL, O_NONBLOCK);
        const auto n = ::read(ends_[0], all.data(), all.size());
        all.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
        return all;
    }

    [[nodiscard]] nbd::uring_request read(std::span<char> to) const
    {
        return nbd::uring_request::read(out(), 0, std::as_writable_bytes(to));
    }

private:
    int ends_[2];
};

inline auto uring(const nbd::uring_request& request)
{
    return nbd::async_uring<std::error_code>(request, asio::use_awaitable_t<executor>{});
}

}  // namespace nbd_test
