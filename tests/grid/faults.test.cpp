// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "grid/backends.hpp"
#include "grid/server_fixture.hpp"

#include <atomic>
#include <barrier>
#include <cerrno>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

using namespace grid;
using proto::command;
using proto::error_value;

constexpr std::uint64_t disk_size = 16U << 20;

/// Fails in a way that depends on the offset.
struct failing_disk {
    [[nodiscard]] std::uint64_t size() const { return disk_size; }
    std::error_code read(std::uint64_t offset, std::span<std::byte>)
    {
        switch (offset / 4096) {
        case 1:
            throw std::runtime_error{"no reason"};
        case 2:
            throw std::bad_alloc{};
        case 3:
            throw std::system_error{ENOSPC, std::generic_category()};
        case 4:
            throw 42;
        case 5:
            return {EIO, std::system_category()};
        case 6:
            return {9999, std::system_category()};
        case 7:
            return nbd::errc::cut_short;  // a category without values on the wire
        default:
            return {};  // B06: reports success and has read nothing
        }
    }
    std::error_code write(std::uint64_t offset, std::span<const std::byte>)
    {
        return {static_cast<int>(offset / 4096), std::generic_category()};
    }
    std::error_code flush() { return {EIO, std::generic_category()}; }
    std::error_code trim(std::uint64_t, std::uint64_t)
    {
        throw std::logic_error{"not implemented"};
    }
};

/// Counts the calls that run at the same time.
template <nbd::concurrency Promise>
struct counting_disk {
    static constexpr nbd::concurrency concurrency = Promise;
    struct counts {
        std::atomic<int> now{0};
        std::atomic<int> most{0};
    };
    std::shared_ptr<counts> seen = std::make_shared<counts>();

    [[nodiscard]] std::uint64_t size() const { return disk_size; }
    void read(std::uint64_t offset, std::span<std::byte>)
    {
        const int now = ++seen->now;
        int most = seen->most;
        while (now > most && !seen->most.compare_exchange_weak(most, now)) {
        }
        // Waits until another call is inside too, at most 200 ms.
        for (int i = 0; offset != 0 && i < 200 && seen->most < 2; ++i)
            std::this_thread::sleep_for(std::chrono::milliseconds{1});
        --seen->now;
    }
};

template <class Disk, class Policy>
int most_at_a_time(Policy policy)
{
    Disk disk;
    const auto seen = disk.seen;
    nbd::server<nbd::unix_transport, Disk, Policy> server{
        somewhere<nbd::unix_transport>(), {}, std::move(policy)};
    server.exports().add("disk", disk);
    server.start();
    // A pool assigns clients to its threads in turn, so two clients are on two threads.
    std::vector<raw_client> clients;
    for (int i = 0; i < 2; ++i) {
        clients.push_back(connect(server));
        clients.back().go("disk");
    }
    for (auto& c : clients)
        c.send_request({.command = command::read, .offset = 512, .length = 512});
    for (auto& c : clients)
        CHECK(c.receive_reply().error == error_value::none);
    return seen->most;
}

}  // namespace

TEMPLATE_TEST_CASE("B01, B02: a backend that fails or throws is an error on the wire", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    nbd::server<nbd::unix_transport, failing_disk, TestType> server{
        somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {});
    server.start();
    auto client = connect(server);
    client.go("disk");
    const auto read = [&](std::uint64_t block) {
        return client.request(command::read, block * 4096, 4096);
    };
    CHECK(read(1) == error_value::eio);
    CHECK(read(2) == error_value::enomem);
    CHECK(read(3) == error_value::enospc);
    CHECK(read(4) == error_value::eio);
    CHECK(read(5) == error_value::eio);
    CHECK(read(6) == error_value::eio);
    CHECK(read(7) == error_value::eio);
    const std::pair<int, error_value> table[] = {{EIO, error_value::eio},
                                                 {ENOSPC, error_value::enospc},
                                                 {EDQUOT, error_value::enospc},
                                                 {EFBIG, error_value::enospc},
                                                 {EROFS, error_value::eperm},
                                                 {EPERM, error_value::eperm},
                                                 {ENOMEM, error_value::enomem},
                                                 {EINVAL, error_value::einval},
                                                 {EOVERFLOW, error_value::einval},
                                                 {ENOTSUP, error_value::einval},
                                                 {ESHUTDOWN, error_value::eshutdown},
                                                 {EINTR, error_value::eio}};
    for (const auto& [number, expected] : table)
        CHECK(client.write(static_cast<std::uint64_t>(number) * 4096, pattern(512)) == expected);
    CHECK(client.request(command::flush, 0, 0) == error_value::eio);
    CHECK(client.request(command::trim, 0, 512) == error_value::eio);
    // A long READ has no success header before its data are there (P59).
    CHECK(client.request(command::read, 5 * 4096, 1 << 20) == error_value::eio);
}

TEMPLATE_TEST_CASE(
    "B06, N-15: bytes that a backend did not fill are zero, never another client's data", "",
    nbd::per_client_threads, nbd::strand_pool)
{
    nbd::server<nbd::unix_transport, failing_disk, TestType> server{
        somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {});
    server.start();
    auto client = connect(server);
    client.go("disk");
    for (const std::size_t length : {4096U, 100'000U, 2U << 20}) {
        CHECK(client.write(0, pattern(length)) == error_value::none);
        const auto data = client.read(0, length);
        REQUIRE(data);
        CHECK(*data == bytes(length));
    }
}

TEST_CASE("The concurrency that a backend promises is kept, with a lock only where needed")
{
    using serial = counting_disk<nbd::concurrency::serialize_all>;
    using parallel = counting_disk<nbd::concurrency::parallel>;
    STATIC_REQUIRE(nbd::server<nbd::unix_transport, serial>::locks_backend);
    STATIC_REQUIRE_FALSE(nbd::server<nbd::unix_transport, parallel>::locks_backend);
    STATIC_REQUIRE_FALSE(nbd::server<nbd::unix_transport, nbd::mem_backend>::locks_backend);
    CHECK(most_at_a_time<serial>(nbd::per_client_threads{}) == 1);
    CHECK(most_at_a_time<serial>(nbd::strand_pool{2}) == 1);
    CHECK(most_at_a_time<parallel>(nbd::per_client_threads{}) == 2);
    CHECK(most_at_a_time<parallel>(nbd::strand_pool{2}) == 2);
}

TEMPLATE_TEST_CASE("N-14: clients that disconnect with replies in flight do not affect others", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    nbd::server<nbd::tcp_transport, nbd::mem_backend, TestType> server{
        somewhere<nbd::tcp_transport>()};
    server.exports().emplace("disk", {}, disk_size);
    server.start();
    auto good = connect(server);
    good.go("disk");
    const auto data = pattern(1 << 20);
    CHECK(good.write(0, data) == error_value::none);
    for (int round = 0; round < 150; ++round) {
        auto bad = connect(server);
        bad.go("disk");
        bytes batch;
        for (int i = 0; i < 4; ++i)
            raw_client::append(batch, {.offset = 2 << 20, .length = 2 << 20});
        bad.send(batch);
        if (round % 2 == 0)
            bad.close();
        else
            bad.reset();
        const auto seen = good.read(0, data.size());
        REQUIRE(seen);
        REQUIRE(*seen == data);
    }
}

TEMPLATE_TEST_CASE("S06: a half-closed client gets all its replies", "", nbd::per_client_threads,
                   nbd::strand_pool)
{
    nbd::server<nbd::unix_transport, plain_disk, TestType> server{somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {}, disk_size);
    server.start();
    auto client = connect(server);
    client.go("disk");
    bytes batch;
    for (std::uint64_t i = 0; i < 20; ++i)
        raw_client::append(batch, {.cookie = i, .length = 65536});
    client.send(batch);
    ::shutdown(client.fd(), SHUT_WR);
    for (std::uint64_t i = 0; i < 20; ++i) {
        CHECK(client.receive_reply().cookie == i);
        std::ignore = client.receive(65536);
    }
    CHECK(client.closed(1));
}

TEMPLATE_TEST_CASE("C01, CVE-2015-0847: many short connections do not affect a good client", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    nbd::server<nbd::tcp_transport, nbd::mem_backend, TestType> server{
        somewhere<nbd::tcp_transport>()};
    server.exports().emplace("disk", {}, disk_size);
    server.start();
    auto good = connect(server);
    good.go("disk");
    std::vector<std::jthread> storm;
    for (int t = 0; t < 3; ++t)
        storm.emplace_back([&server, t] {
            for (int i = 0; i < 300; ++i) {
                try {
                    auto client = connect(server);
                    if (i % 3 == t)
                        client.send(pattern(static_cast<std::size_t>(i)));
                    if (i % 2 == 0)
                        client.reset();
                } catch (const std::system_error&) {  // the reset came before the end of connect
                }
            }
        });
    for (int i = 0; i < 200; ++i)
        REQUIRE(good.read(0, 4096));
    storm.clear();
    CHECK(good.read(0, 4096));
    auto late = connect(server);
    late.go("disk");
    CHECK(late.read(0, 4096));
}

namespace {

/// Has a state for each client, and counts how many were opened and closed.
struct opening_disk {
    struct counts {
        std::atomic<int> opened{0};
        std::atomic<int> closed{0};
    };
    struct state {
        explicit state(std::shared_ptr<counts> c, std::uint64_t s) : kept{std::move(c)}, bytes{s}
        {
            ++kept->opened;
        }
        state(state&&) = default;
        state& operator=(state&&) = default;
        ~state()
        {
            if (kept)
                ++kept->closed;
        }
        std::shared_ptr<counts> kept;
        std::uint64_t bytes;
        [[nodiscard]] std::uint64_t size() const { return bytes; }
        void read(std::uint64_t, std::span<std::byte>) {}
    };
    std::shared_ptr<counts> seen = std::make_shared<counts>();
    bool refuses = false;

    state open(const nbd::client& who)
    {
        if (refuses)
            throw std::system_error{EACCES, std::generic_category()};
        return state{seen, who.id * 512};
    }
};

}  // namespace

TEMPLATE_TEST_CASE(
    "CVE-2019-14850, CVE-2019-14851, N-12: LIST opens no export, and each open is closed once", "",
    nbd::per_client_threads, nbd::strand_pool)
{
    using proto::option;
    const opening_disk disk;
    {
        nbd::server<nbd::unix_transport, opening_disk, TestType> server{
            somewhere<nbd::unix_transport>()};
        server.exports().add("a", disk);
        server.exports().add("b", disk);
        server.exports().add("refused", opening_disk{.refuses = true});
        server.start();
        for (int i = 0; i < 20; ++i) {
            auto curious = connect(server);
            curious.greet();
            std::ignore = curious.ask(option::list);
        }
        CHECK(disk.seen->opened == 0);
        auto client = connect(server);
        client.greet();
        for (int i = 0; i < 5; ++i)
            std::ignore = client.ask(option::info, raw_client::info_data("a"));
        CHECK(disk.seen->opened == 1);
        CHECK(disk.seen->closed == 0);
        CHECK(client.ask(option::go, raw_client::info_data("refused")).back().type
              == proto::option_reply::err_policy);
        const auto go = client.ask(option::go, raw_client::info_data("b"));
        const auto size = proto::load<std::uint64_t>(std::span{go[0].data}.subspan(2));
        CHECK(size >= 21 * 512);  // ids are counted in the whole process
        CHECK(client.read(0, 512));
        auto other = connect(server);
        CHECK(other.go("a").size == size + 512);
    }
    CHECK(disk.seen->opened == 3);
    CHECK(disk.seen->closed == 3);
}
