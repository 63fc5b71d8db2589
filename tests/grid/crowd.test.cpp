// SPDX-License-Identifier: MIT
// Many clients at the same time: in steady state their requests allocate nothing.
#include "../catch.hpp"
#include "allocation_count.hpp"
#include "backends.hpp"
#include "server_fixture.hpp"

#include <vector>

namespace {

using namespace grid;
using proto::command;

constexpr std::uint64_t disk_size = 64U << 20;

struct load {
    std::size_t connections;
    std::size_t depth;
    std::size_t block;
};

/// READs, `depth` of them in flight. Allocates only in its constructor.
class reader {
public:
    template <class Server>
    reader(const Server& server, const load& l) : client_{connect(server)}
    {
        client_.go("disk");
        for (std::size_t i = 0; i < l.depth; ++i)
            raw_client::append(batch_, {.offset = i * l.block, .length = l.block});
        replies_.resize(l.depth * (proto::simple_reply_bytes + l.block));
    }
    void ask() { client_.send(batch_); }
    void receive() { client_.receive(std::span{replies_}); }

private:
    raw_client client_;
    bytes batch_;
    bytes replies_;
};

/// Allocations of a server whose clients all ask before the first receives, after a warm-up.
template <class Backend, class Policy>
std::size_t allocations_under(const load& l)
{
    nbd::settings limits;
    limits.max_connections = limits.places_per_peer = l.connections + 1;
    nbd::server<nbd::unix_transport, Backend, Policy> server{somewhere<nbd::unix_transport>(),
                                                             limits};
    server.exports().emplace("disk", {}, disk_size);
    server.start();
    std::vector<reader> clients;
    clients.reserve(l.connections);
    for (std::size_t i = 0; i < l.connections; ++i)
        clients.emplace_back(server, l);
    const auto rounds = [&](int n) {
        for (; n != 0; --n) {
            for (auto& c : clients)
                c.ask();
            for (auto& c : clients)
                c.receive();
        }
    };
    rounds(20);
    const auto before = allocations();
    rounds(20);
    return allocations() - before;
}

}  // namespace

TEMPLATE_TEST_CASE("crowd: many clients that ask at the same time allocate nothing", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    const load l = GENERATE(load{16, 4, 4096}, load{64, 1, 4096}, load{128, 4, 512},
                            load{256, 1, 4096}, load{1000, 1, 4096});
    CAPTURE(l.connections, l.depth, l.block);
    CHECK(allocations_under<nbd::mem_backend, TestType>(l) == 0);
    CHECK(allocations_under<plain_disk, TestType>(l) == 0);
}
