// SPDX-License-Identifier: MIT
// Slow clients, disks without content, and measurements of the server's memory.
#pragma once

#include "grid/chunk_client.hpp"
#include "grid/server_fixture.hpp"
#include "support/sanitizers.hpp"
#include <nbd/server.hpp>

#include <boost/asio/awaitable.hpp>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <fstream>
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include <malloc.h>
#include <poll.h>

#if NBD_TEST_ASAN || NBD_TEST_TSAN
extern "C" std::size_t __sanitizer_get_current_allocated_bytes();
#endif

namespace grid {

using proto::command;

/// Bytes that the process has allocated and not freed.
[[nodiscard]] inline std::size_t heap_in_use()
{
#if NBD_TEST_ASAN || NBD_TEST_TSAN
    return __sanitizer_get_current_allocated_bytes();
#else
    const auto all = ::mallinfo2();
    return all.uordblks + all.hblkhd;
#endif
}
/// Bytes of the process that are in memory.
[[nodiscard]] inline std::size_t resident()
{
    std::size_t total = 0;
    std::size_t pages = 0;
    std::ifstream{"/proc/self/statm"} >> total >> pages;
    return pages * 4096;
}

// --- disks --------------------------------------------------------------------------------------

/// Every fragment is an extent.
inline constexpr std::uint64_t fragment = 512;

inline void tell_fragments(std::uint64_t offset, std::uint64_t length, nbd::extent_list& to)
{
    for (auto at = offset; to.add(std::min(fragment, offset + length - at), at / fragment % 2);)
        at += fragment;
}

/// Reads as zeroes and discards writes.
struct in_order_disk {
    static constexpr auto concurrency = nbd::concurrency::parallel;
    std::uint64_t length;
    std::uint64_t size() const { return length; }
    void read(std::uint64_t, std::span<std::byte> to) { std::ranges::fill(to, std::byte{0}); }
    void write(std::uint64_t, std::span<const std::byte>) {}
    void extents(std::uint64_t offset, std::uint64_t n, nbd::extent_list& to)
    {
        tell_fragments(offset, n, to);
    }
};
struct offloaded_disk : in_order_disk {
    static constexpr bool blocks = true;
};
/// The same, awaited.
struct awaited_zeroes {
    static constexpr auto concurrency = nbd::concurrency::parallel;
    using awaited = boost::asio::awaitable<std::error_code, boost::asio::io_context::executor_type>;
    std::uint64_t length;
    std::uint64_t size() const { return length; }
    awaited read(std::uint64_t, std::span<std::byte> to)
    {
        std::ranges::fill(to, std::byte{0});
        co_return std::error_code{};
    }
    awaited write(std::uint64_t, std::span<const std::byte>) { co_return std::error_code{}; }
    awaited extents(std::uint64_t offset, std::uint64_t n, nbd::extent_list& to)
    {
        tell_fragments(offset, n, to);
        co_return std::error_code{};
    }
};

template <class Backend, class Policy>
struct with_disk {
    using backend = Backend;
    using policy = Policy;
    static constexpr const char* name = std::is_same_v<Policy, nbd::strand_pool>
        ? "strand_pool, an awaited disk"
        : "per_client_threads, a disk that is not awaited";
};

/// Counts clients that were disconnected, and those of them that were evicted.
class departure_count {
public:
    void at_disconnect(const nbd::client&, std::error_code why)
    {
        const std::lock_guard lock{counts_->mutex};
        ++counts_->left;
        counts_->evicted += why == nbd::errc::evicted ? 1 : 0;
        counts_->changed.notify_all();
    }
    [[nodiscard]] bool await_departures(int n) const
    {
        std::unique_lock lock{counts_->mutex};
        return counts_->changed.wait_for(lock, std::chrono::seconds{60},
                                         [&] { return counts_->left >= n; });
    }
    [[nodiscard]] bool has_departed(int n) const
    {
        const std::lock_guard lock{counts_->mutex};
        return counts_->left >= n;
    }
    [[nodiscard]] int evicted() const
    {
        const std::lock_guard lock{counts_->mutex};
        return counts_->evicted;
    }

private:
    struct counts {
        std::mutex mutex;
        std::condition_variable changed;
        int left = 0;
        int evicted = 0;
    };
    std::shared_ptr<counts> counts_ = std::make_shared<counts>();
};

template <class With>
struct served_memory {
    served_memory(const nbd::settings& limits, std::size_t size)
        : server{somewhere<nbd::unix_transport>(), limits, typename With::policy{}, departures}
    {
        server.exports().add("disk", typename With::backend{size});
        server.start();
    }
    departure_count departures;
    nbd::server<nbd::unix_transport, typename With::backend, typename With::policy, departure_count>
        server;
};

// --- clients ------------------------------------------------------------------------------------

/// Sends and receives only what a test allows. It uses little memory.
class slow_client {
public:
    template <class Server>
    slow_client(const Server& server, bool chunks)
        : client_{server.local_endpoint(),
                  chunks ? proto::reply_style::structured : proto::reply_style::simple}
    {
        if (chunks)
            std::ignore = client_.select("disk", {"base:allocation"});
        client_.go("disk");
    }

    /// Sends a request `count` times, with the payload of a WRITE but without its last `held_back`
    /// bytes.
    void begin(const proto::request& r, std::size_t held_back = 0, std::size_t count = 1)
    {
        header_.clear();
        for (std::size_t i = 0; i < count; ++i)
            raw_client::append(header_, r);
        whole_ = header_.size() + static_cast<std::size_t>(r.payload());
        to_send_ = whole_ - held_back;
    }
    /// Sends the rest, and receives `n` bytes of replies.
    void finish(std::size_t n)
    {
        to_send_ = whole_;
        to_receive_ = n;
    }

    /// Whether the allowed part of the request was sent.
    [[nodiscard]] bool has_sent_all() const { return sent_ == to_send_; }
    [[nodiscard]] bool is_answered() const { return received_ == to_receive_; }
    [[nodiscard]] bool has_something_to_receive() const
    {
        ::pollfd p{.fd = client_.raw.fd(), .events = POLLIN, .revents = 0};
        return ::poll(&p, 1, 0) == 1;
    }

    [[nodiscard]] ::pollfd wanted() const
    {
        const int out = sent_ < to_send_ ? POLLOUT : 0;
        const int in = received_ < to_receive_ ? POLLIN : 0;
        return {.fd = (out | in) == 0 ? -1 : client_.raw.fd(),
                .events = static_cast<short>(out | in),
                .revents = 0};
    }
    /// Sends or receives what is possible; false if the server has closed the connection.
    [[nodiscard]] bool move(int ready)
    {
        static std::vector<std::byte> moved(std::size_t{1} << 20);
        if ((ready & POLLOUT) != 0) {
            const auto from =
                sent_ < header_.size() ? std::span{header_}.subspan(sent_) : std::span{moved};
            const auto n =
                ::send(client_.raw.fd(), from.data(), std::min(from.size(), to_send_ - sent_),
                       MSG_NOSIGNAL | MSG_DONTWAIT);
            if (n < 0)
                return errno == EAGAIN;
            sent_ += static_cast<std::size_t>(n);
        } else if (ready != 0) {
            const auto n = ::recv(client_.raw.fd(), moved.data(),
                                  std::min(moved.size(), to_receive_ - received_), MSG_DONTWAIT);
            if (n <= 0)
                return n < 0 && errno == EAGAIN;
            received_ += static_cast<std::size_t>(n);
        }
        return true;
    }

private:
    chunk_client client_;
    bytes header_;
    std::size_t whole_ = 0;
    std::size_t to_send_ = 0;
    std::size_t sent_ = 0;
    std::size_t to_receive_ = 0;
    std::size_t received_ = 0;
};

class slow_clients {
public:
    template <class Server>
    slow_clients(const Server& server, std::size_t n, bool chunks)
    {
        for (std::size_t i = 0; i < n; ++i)
            all_.emplace_back(server, chunks);
    }
    template <class F>
    void each(F f)
    {
        for (auto& c : all_)
            f(c);
    }
    template <class F>
    [[nodiscard]] std::size_t count(F f) const
    {
        return static_cast<std::size_t>(std::count_if(all_.begin(), all_.end(), f));
    }

    /// Sends and receives until `reached()` and no client has sent or received anything for a
    /// moment. False if that takes too long or a client was disconnected.
    template <class F>
    [[nodiscard]] bool pump_until(F reached)
    {
        const auto end = clock::now() + std::chrono::seconds{120};
        while (clock::now() < end) {
            const int moved = pump(std::chrono::milliseconds{100});
            if (moved < 0)
                return false;
            if (moved == 0 && reached())
                return true;
        }
        return false;
    }
    [[nodiscard]] bool pump_until_all_are_answered()
    {
        return pump_until(
            [this] { return count([](const auto& c) { return c.is_answered(); }) == all_.size(); });
    }

private:
    using clock = std::chrono::steady_clock;

    /// The number of clients that were ready; negative if one was disconnected.
    int pump(std::chrono::milliseconds patience)
    {
        wanted_.clear();
        for (const auto& c : all_)
            wanted_.push_back(c.wanted());
        const int ready =
            ::poll(wanted_.data(), wanted_.size(), static_cast<int>(patience.count()));
        auto at = wanted_.begin();
        for (auto& c : all_)
            if (!c.move((at++)->revents))
                return -1;
        return ready;
    }

    std::list<slow_client> all_;
    std::vector<::pollfd> wanted_;
};

}  // namespace grid
