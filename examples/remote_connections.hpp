// SPDX-License-Identifier: MIT
// Connections to a remote store, for remote_cache.cpp. Everything in this file lives on one
// executor that runs one handler at a time, so it needs no lock: other code may run only where a
// coroutine waits (co_await).
#pragma once

#include "remote_store.hpp"
#include <nbd/server.hpp>

#include <boost/asio/buffer.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/system/system_error.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <system_error>
#include <vector>

namespace remote {

namespace asio = boost::asio;

// The types of per_client_threads and of on_executor<> are the same.
using policy = nbd::strand_pool;
using executor = policy::executor_type;
template <class T>
using task = policy::awaitable<T>;
using socket = policy::rebind<asio::ip::tcp::socket>;
using timer = policy::rebind<asio::steady_timer>;
using clock = std::chrono::steady_clock;

/// Calls a function at the end of a scope, also when an exception ends it.
template <class F>
struct at_exit {
    F f;
    ~at_exit() { f(); }
};
template <class F>
at_exit(F) -> at_exit<F>;

/// Something that coroutines wait for. Each checks its condition again when `wait` has returned.
class event {
public:
    explicit event(executor e) : timer_{e, clock::time_point::max()} {}
    task<void> wait()
    {
        boost::system::error_code cancelled;
        co_await timer_.async_wait(asio::redirect_error(policy::use_awaitable, cancelled));
    }
    void notify_all() { timer_.cancel(); }

private:
    timer timer_;
};

struct store_options {
    std::vector<asio::ip::tcp::endpoint> address{};
    /// How long an answer is waited for, and how long a request is tried again while connections
    /// break.
    std::chrono::milliseconds patience{5000};
};

/// One connection. It carries out one request at a time. An error of the network closes it; an
/// error that the store replies does not.
class connection {
public:
    /// `size`: of the disk, in bytes; 0 before the first connection is made.
    connection(executor e, const store_options& store, std::uint64_t& size)
        : store_{store}, size_{size}, socket_{e}, watchdog_{e}
    {
    }

    [[nodiscard]] bool is_open() const { return socket_.is_open(); }

    /// Connects, unless it is connected.
    task<std::error_code> open(clock::time_point deadline)
    {
        if (is_open())
            co_return std::error_code{};
        bool done = false;
        const at_exit end{[&] { finish(done); }};
        try {
            watch(deadline);
            co_await asio::async_connect(socket_, store_.address, policy::use_awaitable);
            socket_.set_option(asio::ip::tcp::no_delay{true});
            greeting hello;
            const auto head = asio::buffer(&hello, sizeof hello);
            co_await asio::async_read(socket_, head, policy::use_awaitable);
            if (hello.magic != greeting::expected_magic || (size_ != 0 && hello.size != size_))
                co_return std::make_error_code(std::errc::protocol_error);
            size_ = hello.size;
            done = true;
            co_return std::error_code{};
        } catch (const boost::system::system_error& e) {
            co_return error_of(e);
        }
    }

    task<std::error_code> get(std::uint64_t offset, std::span<std::byte> to)
    {
        return call(operation::get, offset, {}, to);
    }
    task<std::error_code> put(std::uint64_t offset, std::span<const std::byte> from)
    {
        return call(operation::put, offset, from, {});
    }
    task<std::error_code> sync() { return call(operation::sync, 0, {}, {}); }

private:
    task<std::error_code> call(operation what, std::uint64_t offset,
                               std::span<const std::byte> from, std::span<std::byte> to)
    {
        bool done = false;
        const at_exit end{[&] { finish(done); }};
        try {
            watch(clock::now() + store_.patience);
            const request asked{.what = static_cast<std::uint32_t>(what),
                                .length = static_cast<std::uint32_t>(from.size() + to.size()),
                                .offset = offset};
            const std::array<asio::const_buffer, 2> message{asio::buffer(&asked, sizeof asked),
                                                            asio::buffer(from.data(), from.size())};
            co_await asio::async_write(socket_, message, policy::use_awaitable);
            reply answer;
            const auto head = asio::buffer(&answer, sizeof answer);
            co_await asio::async_read(socket_, head, policy::use_awaitable);
            if (answer.error == 0) {
                const auto data = asio::buffer(to.data(), to.size());
                co_await asio::async_read(socket_, data, policy::use_awaitable);
            }
            done = true;
            co_return std::error_code{static_cast<int>(answer.error), std::generic_category()};
        } catch (const boost::system::system_error& e) {
            co_return error_of(e);
        }
    }

    /// Closes the socket at `deadline`: what waits for it then fails. A store that hangs is an
    /// error like one that has gone.
    void watch(clock::time_point deadline)
    {
        expired_ = false;
        watchdog_.expires_at(deadline);
        watchdog_.async_wait([this](boost::system::error_code cancelled) {
            if (!cancelled) {
                expired_ = true;
                close();
            }
        });
    }
    [[nodiscard]] std::error_code error_of(const boost::system::system_error& e) const
    {
        return expired_ ? std::make_error_code(std::errc::timed_out) : std::error_code{e.code()};
    }
    void finish(bool done)
    {
        if (done)
            watchdog_.cancel();
        else
            close();
    }
    void close()
    {
        boost::system::error_code ignored;
        socket_.close(ignored);
        watchdog_.cancel();
    }

    const store_options& store_;
    std::uint64_t& size_;
    socket socket_;
    timer watchdog_;
    bool expired_ = false;
};

/// A fixed number of connections, which all clients share.
class connection_pool {
public:
    connection_pool(executor e, store_options store, std::size_t count)
        : executor_{e}, store_{std::move(store)}, released_{e}
    {
        for (std::size_t i = 0; i < count; ++i)
            idle_.push_back(&connections_.emplace_back(e, store_, size_));
    }

    /// The size of the disk in bytes, once a connection was made.
    [[nodiscard]] std::uint64_t size() const { return size_; }

    /// Awaits `exchange(connection)`. If the connection breaks, awaits it again, from its beginning
    /// and on a new connection, until store_options::patience has passed. *Returns* the last
    /// result.
    template <class Exchange>
    task<std::error_code> use(Exchange exchange)
    {
        const auto deadline = clock::now() + store_.patience;
        for (;;) {
            std::error_code error;
            {
                while (idle_.empty())
                    co_await released_.wait();
                auto* const mine = idle_.back();
                idle_.pop_back();
                const at_exit release{[this, mine] {
                    idle_.push_back(mine);
                    released_.notify_all();
                }};
                error = co_await mine->open(deadline);
                if (!error)
                    error = co_await exchange(*mine);
                if (mine->is_open())
                    co_return error;  // the store has answered
            }
            if (clock::now() + pause >= deadline)
                co_return error;
            timer wait{executor_, pause};
            co_await wait.async_wait(policy::use_awaitable);
        }
    }

private:
    static constexpr std::chrono::milliseconds pause{50};

    executor executor_;
    store_options store_;
    std::uint64_t size_ = 0;
    std::deque<connection> connections_;
    std::vector<connection*> idle_;
    event released_;
};

}  // namespace remote
