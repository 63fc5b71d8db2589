// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "grid/allocation_count.hpp"
#include "grid/backends.hpp"
#include "grid/chunk_client.hpp"
#include "grid/server_fixture.hpp"

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

/// A disk whose calls block, and which has extents, all of them data.
struct sparse_and_blocking {
    static constexpr bool blocks = true;
    static constexpr auto concurrency = nbd::concurrency::parallel;

    explicit sparse_and_blocking(std::uint64_t size) : size_{size} {}
    std::uint64_t size() const { return size_; }
    void read(std::uint64_t, std::span<std::byte>) {}
    void extents(std::uint64_t, std::uint64_t length, nbd::extent_list& to) { to.add(length, 0); }

private:
    std::uint64_t size_;
};

template <class Backend, class Policy>
allocation_counts cost_of_10000_requests()
{
    nbd::server<nbd::unix_transport, Backend, Policy> server{somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {}, disk_size);
    server.start();
    steady_client client{server};
    client.run(20 * depth);  // warm-up
    return steady_cost([&] { client.run(10'000); });
}

}  // namespace

TEST_CASE("Allocations are counted")
{
    const auto before = allocations();
    const auto one = std::make_unique<int>(1);
    CHECK(*one == 1);
    CHECK(allocations() > before);
}

TEST_CASE("Structured READs of a disk with extents and calls that block allocate nothing")
{
    nbd::server<nbd::unix_transport, sparse_and_blocking, nbd::strand_pool> server{
        somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {}, disk_size);
    server.start();
    chunk_client chunks{server.local_endpoint(), proto::reply_style::structured};
    chunks.go("disk");
    constexpr std::uint32_t length = 256 << 10;
    bytes request;
    raw_client::append(request, {.offset = 0, .length = length});
    bytes reply(proto::structured_chunk_bytes + 8 + length);  // one chunk, its offset, the data
    const auto run = [&](int n) {
        for (; n != 0; --n) {
            chunks.raw.send(request);
            chunks.raw.receive(std::span{reply});
        }
    };
    run(100);
    CHECK(steady_cost([&] { run(1000); }) == none);
}

TEST_CASE("10,000 READs and WRITEs at depth 16 allocate nothing")
{
    CHECK(cost_of_10000_requests<nbd::mem_backend, nbd::per_client_threads>() == none);
    CHECK(cost_of_10000_requests<nbd::mem_backend, nbd::strand_pool>() == none);
    CHECK(cost_of_10000_requests<plain_disk, nbd::per_client_threads>() == none);
    CHECK(cost_of_10000_requests<callback_disk, nbd::strand_pool>() == none);
}
