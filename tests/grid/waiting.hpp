// SPDX-License-Identifier: MIT
// Disks whose calls wait until a test releases them: awaited calls, and calls that block.
#pragma once

#include "catch.hpp"
#include "grid/server_fixture.hpp"
#include <nbd/server.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

namespace grid {

using proto::command;
using proto::error_value;

/// State that a test and the calls of its disk share. A call at a closed offset waits until it is
/// opened.
struct switchboard {
    std::mutex mutex;
    std::condition_variable changed;
    std::set<std::uint64_t> closed;  ///< offsets whose calls wait
    // Changed under `mutex`; atomic because tests also read them without it.
    std::atomic<int> inside = 0;
    std::atomic<int> most = 0;
    std::atomic<int> cancelled = 0;
    std::atomic<int> departed = 0;  ///< disconnected clients
    std::vector<std::string> story;
    bytes content = pattern(1 << 20);

    void enter(const std::string& what)
    {
        const std::lock_guard lock{mutex};
        story.push_back(what);
        most = std::max(most.load(), ++inside);
        changed.notify_all();
    }
    void leave()
    {
        const std::lock_guard lock{mutex};
        --inside;
        changed.notify_all();
    }
    [[nodiscard]] bool waits(std::uint64_t offset)
    {
        const std::lock_guard lock{mutex};
        return closed.contains(offset);
    }
    void close(std::initializer_list<std::uint64_t> offsets)
    {
        const std::lock_guard lock{mutex};
        closed.insert(offsets.begin(), offsets.end());
    }
    void open(std::uint64_t offset)
    {
        const std::lock_guard lock{mutex};
        closed.erase(offset);
        changed.notify_all();
    }
    template <class Condition>
    [[nodiscard]] bool await(Condition condition)
    {
        std::unique_lock lock{mutex};
        return changed.wait_for(lock, std::chrono::seconds{20}, condition);
    }
};

/// Awaits a timer repeatedly until the offset is open.
template <class Executor>
boost::asio::awaitable<void, Executor> until_open(switchboard& board, std::uint64_t offset)
{
    boost::asio::basic_waitable_timer<std::chrono::steady_clock,
                                      boost::asio::wait_traits<std::chrono::steady_clock>, Executor>
        timer{co_await boost::asio::this_coro::executor};
    do {
        timer.expires_after(std::chrono::milliseconds{1});
        co_await timer.async_wait(boost::asio::use_awaitable_t<Executor>{});
    } while (board.waits(offset));
}

/// Its calls wait until the test opens their offset.
template <class Executor>
class awaiting_disk {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    template <class T>
    using awaitable = boost::asio::awaitable<T, Executor>;

    explicit awaiting_disk(switchboard& s) : board_{&s} {}
    [[nodiscard]] std::uint64_t size() const { return board_->content.size(); }
    awaitable<std::error_code> read(std::uint64_t offset, std::span<std::byte> to)
    {
        const auto failed = co_await turn("read", offset);
        if (!failed)
            std::copy_n(board_->content.begin() + static_cast<std::ptrdiff_t>(offset), to.size(),
                        to.begin());
        co_return failed;
    }
    awaitable<nbd::failure> write(std::uint64_t offset, std::span<const std::byte> from)
    {
        const auto failed = co_await turn("write", offset);
        if (!failed)
            std::copy(from.begin(), from.end(),
                      board_->content.begin() + static_cast<std::ptrdiff_t>(offset));
        co_return failed;
    }
    awaitable<void> flush() { std::ignore = co_await turn("flush", 1); }
    awaitable<std::error_code> trim(std::uint64_t offset, std::uint64_t)
    {
        throw std::runtime_error{"trim throws"};
        co_return co_await turn("trim", offset);
    }

private:
    awaitable<std::error_code> turn(std::string what, std::uint64_t offset)
    {
        board_->enter(what + ' ' + std::to_string(offset));
        std::error_code failed;
        try {
            co_await until_open<Executor>(*board_, offset);
        } catch (const boost::system::system_error& e) {
            failed = e.code();
            const std::lock_guard lock{board_->mutex};
            ++board_->cancelled;
        }
        board_->leave();
        co_return failed;
    }
    switchboard* board_;
};
using awaited = awaiting_disk<boost::asio::io_context::executor_type>;
using awaited_by_any = awaiting_disk<boost::asio::any_io_executor>;
template <class Disk>
struct cancelling : Disk {
    static constexpr bool cancellable = true;
    using Disk::Disk;
};
struct one_at_a_time : awaited {
    static constexpr nbd::concurrency concurrency = nbd::concurrency::serialize_all;
    using awaited::awaited;
};

/// The same with calls that block.
class blocking_disk {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool blocks = true;

    explicit blocking_disk(switchboard& s) : board_{&s} {}
    [[nodiscard]] std::uint64_t size() const { return board_->content.size(); }
    void read(std::uint64_t offset, std::span<std::byte> to)
    {
        turn("read", offset);
        std::copy_n(board_->content.begin() + static_cast<std::ptrdiff_t>(offset), to.size(),
                    to.begin());
    }
    void write(std::uint64_t offset, std::span<const std::byte> from)
    {
        turn("write", offset);
        std::copy(from.begin(), from.end(),
                  board_->content.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    void flush() { turn("flush", 1); }
    void trim(std::uint64_t, std::uint64_t) { throw std::runtime_error{"trim throws"}; }

private:
    void turn(const std::string& what, std::uint64_t offset)
    {
        board_->enter(what + ' ' + std::to_string(offset));
        std::ignore = board_->await([&] { return !board_->closed.contains(offset); });
        board_->leave();
    }
    switchboard* board_;
};

template <class Backend, class Policy>
struct with {
    using backend = Backend;
    using policy = Policy;
    static Policy make()
    {
        if constexpr (std::is_same_v<Policy, nbd::strand_pool>)
            return Policy{std::is_same_v<Backend, blocking_disk> ? 64U : 2U};
        else
            return {};
    }
};

/// Counts disconnected clients.
struct departures {
    switchboard* board = nullptr;
    void at_disconnect(const nbd::client&, std::error_code)
    {
        const std::lock_guard lock{board->mutex};
        ++board->departed;
        board->changed.notify_all();
    }
};

template <class With>
struct served {
    explicit served(nbd::settings limits = {})
        : server{somewhere<nbd::unix_transport>(), limits, With::make(), departures{&board}}
    {
        server.exports().emplace("disk", {}, board);
        server.start();
    }
    ~served()
    {
        for (std::uint64_t offset = 0; offset < 1 << 20; offset += 512)
            board.open(offset);
        board.open(1);
    }
    raw_client client()
    {
        raw_client c = connect(server);
        c.go("disk");
        return c;
    }
    switchboard board;
    nbd::server<nbd::unix_transport, typename With::backend, typename With::policy, departures>
        server;
};

inline void ask(raw_client& c, command what, std::uint64_t cookie, std::uint64_t offset,
                std::uint64_t length, std::uint16_t flags = 0)
{
    const bytes payload = what == command::write ? pattern(length, 7) : bytes{};
    c.send_request(
        {.flags = flags, .command = what, .cookie = cookie, .offset = offset, .length = length},
        payload);
}
inline std::uint64_t take_read(raw_client& c, const switchboard& board, std::uint64_t length)
{
    const auto reply = c.receive_reply();
    REQUIRE(reply.error == error_value::none);
    const auto data = c.receive(static_cast<std::size_t>(length));
    // The cookie is the offset of the READ.
    CHECK(std::equal(data.begin(), data.end(),
                     board.content.begin() + static_cast<std::ptrdiff_t>(reply.cookie)));
    return reply.cookie;
}

}  // namespace grid

#define ALL_THAT_WAIT                                                                              \
    (with<awaited, nbd::strand_pool>), (with<awaited, nbd::per_client_threads>),                   \
        (with<awaited_by_any, nbd::strand_pool>), (with<blocking_disk, nbd::strand_pool>)
