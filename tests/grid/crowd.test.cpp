// SPDX-License-Identifier: MIT
// Many clients at the same time: in steady state their requests allocate nothing.
#include "catch.hpp"
#include "grid/allocation_count.hpp"
#include "grid/backends.hpp"
#include "grid/program.hpp"
#include "grid/server_fixture.hpp"
#include <nbd/session/buffers/block.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include <sys/resource.h>
#include <sys/socket.h>

namespace {

using namespace grid;
using proto::command;

constexpr std::uint64_t disk_size = 64U << 20;
constexpr std::size_t kib = 1024;
constexpr std::size_t mib = 1024 * kib;

struct load {
    std::size_t connections;
    std::size_t depth;
    std::size_t block;
};

/// READs, `depth` of them in flight. Allocates only in its constructor.
class reader {
public:
    template <class Server>
    reader(const Server& server, const load& l)
        : client_{connect(server)}, expected_{l.depth * (proto::simple_reply_bytes + l.block)}
    {
        client_.go("disk");
        for (std::size_t i = 0; i < l.depth; ++i)
            raw_client::append(batch_, {.offset = i * l.block, .length = l.block});
    }
    void ask()
    {
        client_.send(batch_);
        received_ = 0;
    }
    /// Receives what there is. *Returns* whether that was all.
    [[nodiscard]] bool receive_some()
    {
        static bytes scratch(mib);
        while (received_ != expected_) {
            const auto n = ::recv(client_.fd(), scratch.data(),
                                  std::min(expected_ - received_, scratch.size()), MSG_DONTWAIT);
            if (n < 0 && errno == EAGAIN)
                return false;
            if (n <= 0)
                throw std::runtime_error{"the server closed the connection"};
            received_ += static_cast<std::size_t>(n);
        }
        return true;
    }

private:
    raw_client client_;
    bytes batch_;
    std::size_t expected_;
    std::size_t received_ = 0;
};

/// All ask, then all receive at the same time: the server has not the memory for the replies to all
/// of them, so a client that it waits for must not wait for another one.
void ask_and_receive(std::vector<reader>& clients)
{
    for (auto& c : clients)
        c.ask();
    const auto end = std::chrono::steady_clock::now() + std::chrono::minutes{5};
    for (bool all = false; !all;) {
        all = true;
        for (auto& c : clients)
            all = c.receive_some() && all;
        if (std::chrono::steady_clock::now() > end)
            throw std::runtime_error{"a reply does not come"};
    }
}

/// A disk in memory whose calls may block: a pool makes them on other threads.
struct blocking_disk {
    static constexpr bool blocks = true;
    static constexpr auto concurrency = nbd::concurrency::parallel;

    explicit blocking_disk(std::uint64_t size) : disk{size} {}
    std::uint64_t size() const { return disk.size(); }
    void read(std::uint64_t offset, std::span<std::byte> to) { disk.read(offset, to); }
    plain_disk disk;
};

/// A disk with callbacks that completes each call at once.
struct disk_with_callbacks {
    static constexpr auto concurrency = nbd::concurrency::parallel;

    explicit disk_with_callbacks(std::uint64_t size) : disk{size} {}
    std::uint64_t size() const { return disk.size(); }
    void async_read(std::uint64_t offset, std::span<std::byte> to, nbd::completion done)
    {
        disk.read(offset, to);
        done({});
    }
    plain_disk disk;
};

template <class Policy>
struct maker {
    Policy make() { return {}; }
};
template <>
struct maker<nbd::on_executor<>> {
    nbd::on_executor<> make() { return nbd::on_executor<>{own.context.get_executor()}; }
    program own;
};

template <class Backend, class Policy>
struct combination {
    using backend = Backend;
    using policy = Policy;
};

/// What `rounds` cost a server in steady state.
template <class Combination>
allocation_counts counted(const load& l, int rounds)
{
    ::rlimit descriptors{};
    ::getrlimit(RLIMIT_NOFILE, &descriptors);
    descriptors.rlim_cur = descriptors.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &descriptors);

    nbd::settings limits;
    limits.max_connections = limits.places_per_peer = l.connections + 1;
    limits.stall_grace = std::chrono::hours{1};  // 4,000 clients are slow for their number
    maker<typename Combination::policy> policy;
    nbd::server<nbd::unix_transport, typename Combination::backend, typename Combination::policy>
        server{somewhere<nbd::unix_transport>(), limits, policy.make()};
    server.exports().emplace("disk", {}, disk_size);
    server.start();
    std::vector<reader> clients;
    clients.reserve(l.connections);
    for (std::size_t i = 0; i < l.connections; ++i)
        clients.emplace_back(server, l);
    const auto run = [&](int n) {
        for (; n != 0; --n)
            ask_and_receive(clients);
    };
    run(rounds);
    return steady_cost([&] { run(rounds); });
}

}  // namespace

#define ALL_COMBINATIONS                                                                           \
    (combination<nbd::mem_backend, nbd::per_client_threads>),                                      \
        (combination<nbd::mem_backend, nbd::strand_pool>),                                         \
        (combination<nbd::mem_backend, nbd::on_executor<>>),                                       \
        (combination<plain_disk, nbd::per_client_threads>),                                        \
        (combination<plain_disk, nbd::strand_pool>),                                               \
        (combination<blocking_disk, nbd::strand_pool>),                                            \
        (combination<disk_with_callbacks, nbd::strand_pool>),                                      \
        (combination<disk_with_callbacks, nbd::per_client_threads>)

TEMPLATE_TEST_CASE("crowd: many clients that ask at the same time allocate nothing", "",
                   ALL_COMBINATIONS)
{
    // With the default budget 512 clients have calls on other threads; more wait for memory.
    const load l = GENERATE(load{16, 4, 4 * kib}, load{64, 1, 512}, load{128, 4, 64 * kib},
                            load{8, 4, mib}, load{1000, 1, 4 * kib});
    CAPTURE(l.connections, l.depth, l.block);
    CHECK(counted<TestType>(l, 10) == none);
}

TEST_CASE("crowd: clients that pause for more than a second allocate nothing")
{
    using nbd::session::block;
    nbd::server<nbd::unix_transport, nbd::mem_backend, nbd::per_client_threads> server{
        somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {}, disk_size);
    server.start();
    const load l{4, 1, mib};
    std::vector<reader> clients;
    for (std::size_t i = 0; i < l.connections; ++i)
        clients.emplace_back(server, l);
    CHECK(steady_cost([&] {
              ask_and_receive(clients);
              // Each thread shares the memory of its request when it has been idle for a second.
              const auto most = std::chrono::steady_clock::now() + std::chrono::seconds{20};
              while (block::in_shared_stock() < l.connections * l.block
                     && std::chrono::steady_clock::now() < most)
                  std::this_thread::sleep_for(std::chrono::milliseconds{1});
          })
          == none);
}

TEMPLATE_TEST_CASE("crowd: measures allocations", "[.][crowd-table]", ALL_COMBINATIONS)
{
    for (const std::size_t connections : {1U, 16U, 64U, 256U, 1000U, 4000U})
        for (const std::size_t depth : {1U, 4U})
            for (const auto block : {kib / 2, 4 * kib, 64 * kib, mib}) {
                const auto size = connections * depth * block;
                const auto rounds = size > 2048 * mib ? 1 : size > 256 * mib ? 2 : 10;
                const auto c = counted<TestType>({connections, depth, block}, rounds);
                const auto requests =
                    static_cast<double>(connections * depth) * static_cast<double>(rounds);
                std::printf("%-90s %5zu x %zu, %7zu bytes: %.5f allocations, %.5f mappings\n",
                            Catch::getResultCapture().getCurrentTestName().c_str(), connections,
                            depth, block, static_cast<double>(c.allocations) / requests,
                            static_cast<double>(c.mappings) / requests);
                std::fflush(stdout);
            }
    SUCCEED("measured");
}
