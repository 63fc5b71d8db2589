// SPDX-License-Identifier: MIT
#include "../catch.hpp"
#include "allocation_count.hpp"
#include "backends.hpp"
#include "server_fixture.hpp"

namespace {

using namespace grid;
using proto::command;

constexpr std::uint64_t disk_size = 16U << 20;
constexpr int depth = 16;
constexpr std::size_t block = 4096;

/// Alternating READs and WRITEs, `depth` of them in flight. Allocates only in its constructor.
class steady_client {
public:
    template <class Server>
    explicit steady_client(const Server& server) : client_{connect(server)}
    {
        client_.go("disk");
        const auto data = pattern(block);
        for (int i = 0; i < depth; ++i) {
            const auto offset = static_cast<std::uint64_t>(i) * block;
            if (i % 2 == 0)
                raw_client::append(batch_, {.offset = offset, .length = block});
            else
                raw_client::append(
                    batch_, {.command = command::write, .offset = offset, .length = block}, data);
        }
        replies_.resize(depth * proto::simple_reply_bytes + depth / 2 * block);
    }

    void run(int requests)
    {
        for (int done = 0; done < requests; done += depth) {
            client_.send(batch_);
            client_.receive(std::span{replies_});
        }
    }

private:
    raw_client client_;
    bytes batch_;
    bytes replies_;
};

template <class Backend, class Policy>
std::size_t allocations_of_10000_requests()
{
    nbd::server<nbd::unix_transport, Backend, Policy> server{somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {}, disk_size);
    server.start();
    steady_client client{server};
    client.run(20 * depth);  // warm-up
    const auto before = allocations();
    client.run(10'000);
    return allocations() - before;
}

}  // namespace

TEST_CASE("Allocations are counted")
{
    const auto before = allocations();
    const auto one = std::make_unique<int>(1);
    CHECK(*one == 1);
    CHECK(allocations() > before);
}

TEST_CASE("10,000 READs and WRITEs at depth 16 allocate nothing")
{
    CHECK(allocations_of_10000_requests<nbd::mem_backend, nbd::per_client_threads>() == 0);
    CHECK(allocations_of_10000_requests<nbd::mem_backend, nbd::strand_pool>() == 0);
    CHECK(allocations_of_10000_requests<plain_disk, nbd::per_client_threads>() == 0);
    CHECK(allocations_of_10000_requests<callback_disk, nbd::strand_pool>() == 0);
}
