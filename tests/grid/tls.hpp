// SPDX-License-Identifier: MIT
// Servers with TLS for the tests: what they serve, and who watches them.
#pragma once

#include "grid/program.hpp"
#include "grid/server_fixture.hpp"
#include "tls/client.hpp"
#include <nbd/server.hpp>
#include <nbd/transport/tls_transport.hpp>

#include <boost/asio/awaitable.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

namespace grid {

using nbd::tls_mode;
using tls_test::authority_and_server;
using tls_test::client_settings;
using tls_test::tls_client;

/// What the disks of one server share, and what is known of their clients.
struct medium {
    bytes content = pattern(std::size_t{4} << 20);
    std::atomic<int> opens = 0;
    std::mutex mutex;
    std::condition_variable changed;
    std::optional<nbd::tls_info> last{};        ///< of the client that opened last
    std::vector<std::error_code> departures{};  ///< why clients have left

    void opened_by(const nbd::client& who)
    {
        ++opens;
        const std::lock_guard lock{mutex};
        last = who.tls;
    }
    /// Waits until `n` clients have left; returns why the last one has.
    [[nodiscard]] std::error_code departure(std::size_t n = 1)
    {
        std::unique_lock lock{mutex};
        if (!changed.wait_for(lock, std::chrono::seconds{20},
                              [&] { return departures.size() >= n; }))
            throw std::runtime_error{"the client is still connected"};
        return departures.back();
    }
};

struct departures {
    medium* of = nullptr;
    void at_disconnect(const nbd::client&, std::error_code why)
    {
        const std::lock_guard lock{of->mutex};
        of->departures.push_back(why);
        of->changed.notify_all();
    }
};

/// Calls return at once, and memory is lent.
struct lending_view {
    static constexpr auto concurrency = nbd::concurrency::parallel;
    medium* of;
    [[nodiscard]] std::uint64_t size() const { return of->content.size(); }
    [[nodiscard]] std::span<std::byte> at(std::uint64_t offset, std::size_t n) const
    {
        return std::span{of->content}.subspan(static_cast<std::size_t>(offset), n);
    }
    void read(std::uint64_t offset, std::span<std::byte> to) const
    {
        std::ranges::copy(at(offset, to.size()), to.begin());
    }
    void write(std::uint64_t offset, std::span<const std::byte> from) const
    {
        std::ranges::copy(from, at(offset, from.size()).begin());
    }
    void flush() const {}
    [[nodiscard]] std::span<const std::byte> lend(std::uint64_t offset,
                                                  std::size_t n) const noexcept
    {
        return at(offset, n);
    }
};
/// Calls block, so strand_pool offloads them.
struct blocking_view {
    static constexpr auto concurrency = nbd::concurrency::parallel;
    static constexpr bool blocks = true;
    lending_view disk;
    [[nodiscard]] std::uint64_t size() const { return disk.size(); }
    void read(std::uint64_t offset, std::span<std::byte> to) const { disk.read(offset, to); }
    void write(std::uint64_t offset, std::span<const std::byte> from) const
    {
        disk.write(offset, from);
    }
    void flush() const {}
};
/// Calls are awaited.
struct awaited_view {
    static constexpr auto concurrency = nbd::concurrency::parallel;
    using task = boost::asio::awaitable<void, boost::asio::io_context::executor_type>;
    lending_view disk;
    [[nodiscard]] std::uint64_t size() const { return disk.size(); }
    task read(std::uint64_t offset, std::span<std::byte> to) const
    {
        disk.read(offset, to);
        co_return;
    }
    task write(std::uint64_t offset, std::span<const std::byte> from) const
    {
        disk.write(offset, from);
        co_return;
    }
    task flush() const { co_return; }
};

template <class View>
struct disk_of {
    medium* of;
    View open(const nbd::client& who)
    {
        of->opened_by(who);
        if constexpr (std::is_same_v<View, lending_view>)
            return {of};
        else
            return {{of}};
    }
};

/// A server with TLS on 127.0.0.1, and its credentials. Export "disk", and "secret" with tls_only.
template <class View, class Policy>
struct tls_place {
    using transport = nbd::tls_transport<nbd::tcp_transport>;
    using server_type = nbd::server<transport, disk_of<View>, Policy, departures>;
    static constexpr bool hosted = std::is_same_v<Policy, nbd::on_executor<>>;

    struct how {
        tls_mode mode = tls_mode::forced;
        bool verify_peer = false;
        bool certificates = true;
        bool psk = false;
        nbd::settings limits{};
        nbd::authorisation authorise{};
    };
    explicit tls_place(how h = {})
        : credentials{{.certificates = h.certificates ? pki.files.path() : std::string{},
                       .psk = h.psk ? pki.files.put("keys.psk", tls_test::psk_file) : std::string{},
                       .verify_peer = h.verify_peer}}
    {
        if constexpr (hosted)
            program_.emplace();
        typename server_type::options o{
            .listen = {.over = {.port = 0}, .mode = h.mode, .credentials = credentials},
            .settings = h.limits,
            .policy = policy(),
            .observer = {&media},
            .authorise = std::move(h.authorise)};
        server.emplace(std::move(o));
        server->exports().add("disk", disk_of<View>{&media});
        server->exports().add("secret", disk_of<View>{&media}, {.tls_only = true});
        server->start();
    }

    [[nodiscard]] raw_client plain() const { return raw_client{server->local_endpoint()}; }
    [[nodiscard]] tls_client client(client_settings with = {}) const
    {
        return tls_client{plain(), with};
    }
    /// A client in transmission, inside TLS.
    [[nodiscard]] std::unique_ptr<tls_client> ready(client_settings with = {},
                                                    std::string_view name = "disk") const
    {
        auto made = std::make_unique<tls_client>(plain(), with);
        if (!made->start_tls())
            throw std::runtime_error{"the client was refused: " + tls_test::error_text()};
        if (made->go_inside(name) != proto::option_reply::ack)
            throw std::runtime_error{"the export was refused"};
        return made;
    }

    authority_and_server pki;
    medium media;
    nbd::tls_credentials credentials;
    std::optional<program> program_;
    std::optional<server_type> server;

private:
    Policy policy()
    {
        if constexpr (hosted)
            return Policy{program_->context};
        else if constexpr (std::is_same_v<Policy, nbd::strand_pool>)
            return Policy{2};
        else
            return Policy{};
    }
};

/// Synchronous, on blocking sockets.
using blocking_place = tls_place<lending_view, nbd::per_client_threads>;
/// Synchronous, on asynchronous sockets.
using pool_place = tls_place<lending_view, nbd::strand_pool>;
/// Synchronous, on extra threads.
using offloading_place = tls_place<blocking_view, nbd::strand_pool>;
/// Awaited, on the program's executor.
using hosted_place = tls_place<awaited_view, nbd::on_executor<>>;
/// Awaited, on the client's thread.
using private_place = tls_place<awaited_view, nbd::per_client_threads>;

}  // namespace grid
