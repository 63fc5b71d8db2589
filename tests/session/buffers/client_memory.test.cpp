// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/session/buffers/client_memory.hpp>

#include <utility>

using nbd::session::charge;
using nbd::session::client_memory;
using nbd::session::memory_budget;
using pool = memory_budget::pool;

namespace {

constexpr std::size_t mib = std::size_t{1} << 20;

nbd::settings limits()
{
    nbd::settings s;
    s.server_memory = 8 * mib;  // four connections that work, and 6 MiB for requests
    return s;
}

struct server {
    memory_budget memory{limits()};
};

}  // namespace

TEST_CASE("session/buffers/client_memory: a charge is released once, in parts or as a whole")
{
    server s;
    client_memory client{s.memory};
    {
        charge all;
        REQUIRE(client.begin_request(all, 3 * mib));
        all.shrink(4 * mib);
        CHECK(s.memory.used(pool::requests) == 3 * mib);
        all.shrink(mib);
        CHECK(s.memory.used(pool::requests) == mib);
        charge moved{std::move(all)};
        CHECK(all.bytes() == 0);  // NOLINT: a moved-from charge is empty
        CHECK(moved.bytes() == mib);
        all = std::move(moved);
        CHECK(s.memory.used(pool::requests) == mib);
        CHECK(client.holds(pool::requests) == mib);
    }
    CHECK(s.memory.used(pool::requests) == 0);
    CHECK(client.holds(pool::requests) == 0);
}

TEST_CASE("session/buffers/client_memory: an idle client keeps its charge unless memory is scarce")
{
    server s;
    client_memory a{s.memory};
    CHECK(a.holds(pool::working) == 0);
    CHECK(a.begin_work());
    CHECK(a.begin_work());
    CHECK(s.memory.used(pool::working) == memory_budget::working_bytes);
    a.rest();
    CHECK(a.holds(pool::working) != 0);
    client_memory b{s.memory};
    CHECK(b.begin_work());
    CHECK_FALSE(s.memory.scarce());
    {
        client_memory c{s.memory};
        CHECK(c.begin_work());
        CHECK(c.scarce());
        b.rest();
        CHECK(b.holds(pool::working) == 0);
        CHECK_FALSE(c.scarce());
        CHECK(c.holds(pool::working) != 0);
    }
    CHECK(s.memory.used(pool::working) == memory_budget::working_bytes);
}

TEST_CASE("session/buffers/client_memory: a request is charged, or has to wait")
{
    server s;
    client_memory a{s.memory};
    charge first;
    charge second;
    charge nothing;
    CHECK(a.most_for_requests() == 6 * mib);
    CHECK(a.begin_request(first, 4 * mib));
    CHECK_FALSE(a.begin_request(second, 4 * mib));
    CHECK(second.bytes() == 0);
    CHECK(a.begin_request(nothing, 0));
    first.shrink(0);
    CHECK(a.begin_request(second, 4 * mib));
    CHECK(second.bytes() == 4 * mib);
}
