// SPDX-License-Identifier: MIT
// BLOCK_STATUS over a socket: base:allocation, contexts of a backend, and wrong extents.
#include "catch.hpp"
#include "grid/chunk_client.hpp"
#include "grid/server_fixture.hpp"

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace grid;
using proto::command;
using proto::error_value;
using proto::option;
using proto::option_reply;
using style = proto::reply_style;
using descriptors = std::vector<context_status::descriptor>;
using selection = std::vector<std::pair<std::uint32_t, std::string>>;
namespace cf = proto::command_flag;
namespace tf = proto::transmission_flag;

constexpr std::uint64_t mib = 1 << 20;
constexpr std::uint64_t gib = std::uint64_t{1} << 30;
constexpr auto most = ~std::uint64_t{0};

/// Contexts: allocation, changes since a snapshot, and the age of blocks in 64 bits.
struct snapshot_disk {
    static constexpr std::uint64_t age = 0x123456789abcdef0;
    static constexpr std::array<nbd::meta_context, 2> own{
        {{"x-snap:changed"}, {.name = "x-snap:age", .wide = true}}};

    std::uint64_t size() const { return 64 * gib; }
    void read(std::uint64_t, std::span<std::byte>) {}
    void extents(std::uint64_t offset, std::uint64_t length, nbd::extent_list& to)
    {
        tell(offset, length, to, [](std::uint64_t block) { return block % 3; });
    }
    std::span<const nbd::meta_context> meta_contexts() const { return own; }
    void context_extents(std::size_t index, std::uint64_t offset, std::uint64_t length,
                         nbd::extent_list& to)
    {
        if (index == 1)
            to.add(length, age);
        else
            tell(offset, length, to, [](std::uint64_t block) { return 0xfffffff0 + block % 2; });
    }

    /// Blocks of 1 MiB.
    static void tell(std::uint64_t offset, std::uint64_t length, nbd::extent_list& to, auto status)
    {
        for (const auto end = offset + length; offset < end;) {
            const auto next = std::min((offset / mib + 1) * mib, end);
            if (!to.add(next - offset, status(offset / mib)))
                return;
            offset = next;
        }
    }
};

/// Reports the extents that its test chooses, true or not.
struct liar {
    std::function<void(std::uint64_t, nbd::extent_list&)> tell;
    std::uint64_t size() const { return 8 * gib; }
    void read(std::uint64_t, std::span<std::byte>) {}
    void extents(std::uint64_t, std::uint64_t length, nbd::extent_list& to) { tell(length, to); }
};

constexpr auto both_styles = {style::structured, style::extended};

}  // namespace

TEMPLATE_TEST_CASE(
    "P66, P84: base:allocation is one chunk, whose extents are contiguous from the offset", "",
    nbd::per_client_threads, nbd::strand_pool)
{
    nbd::server<nbd::unix_transport, snapshot_disk, TestType> server{
        somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {});
    server.start();
    for (const auto s : both_styles) {
        chunk_client client{server.local_endpoint(), s};
        CHECK(client.select("disk", {"base:allocation"}) == selection{{1, "base:allocation"}});
        client.go("disk");
        auto all = client.status(0, 3 * mib);
        REQUIRE(all.size() == 1);
        CHECK(all[0].id == 1);
        CHECK(all[0].extents == descriptors{{mib, 0}, {mib, 1}, {mib, 2}});
        all = client.status(mib - 1, 3);
        CHECK(all[0].extents == descriptors{{1, 0}, {2, 1}});
        all = client.status(mib - 1, 3 * mib, cf::req_one);
        CHECK(all[0].extents == descriptors{{1, 0}});
        all = client.status(64 * gib - 1, 1);
        CHECK(all[0].extents.size() == 1);

        // the largest request of 32 bits
        all = client.status(0, 0xffffffff);
        CHECK(all[0].extents.size() == 4096);
        CHECK(all[0].extents.back().length == mib - 1);

        for (const auto& [offset, length] : {std::pair{64 * gib, std::uint64_t{1}},
                                             {64 * gib - 1, 2},
                                             {0, 0},
                                             {~std::uint64_t{0}, 1}})
            CHECK(client.request(command::block_status, offset, length).error()
                  == error_value::einval);
        CHECK(client.request(command::block_status, 0, 512, cf::df).error() == error_value::einval);
        CHECK(client.status(0, mib).size() == 1);
    }
}

TEMPLATE_TEST_CASE("P66: no more descriptors than the settings allow", "", nbd::per_client_threads,
                   nbd::strand_pool)
{
    nbd::settings few;
    few.extents_per_reply = 4;
    nbd::server<nbd::unix_transport, snapshot_disk, TestType> server{
        somewhere<nbd::unix_transport>(), few};
    server.exports().emplace("disk", {});
    server.start();
    for (const auto s : both_styles) {
        chunk_client client{server.local_endpoint(), s};
        client.select("disk", {"base:allocation"});
        client.go("disk");
        // repeated requests from the end of each reply reach the end of the export
        std::uint64_t at = 0;
        for (const auto end = 21 * mib; at < end;) {
            const auto all = client.status(at, end - at);
            REQUIRE(all[0].extents.size() <= 4);
            for (const auto& e : all[0].extents) {
                REQUIRE(e.flags == at / mib % 3);
                at += e.length;
            }
        }
        CHECK(at == 21 * mib);
    }
}

TEMPLATE_TEST_CASE("P66, P81, P85: a backend's own contexts, of 32 bits and of 64", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    nbd::server<nbd::unix_transport, snapshot_disk, TestType> server{
        somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {});
    server.start();
    SECTION("structured replies: the context of 64 bits is not available")
    {
        chunk_client client{server.local_endpoint(), style::structured};
        CHECK(client.raw.ask(option::list_meta_context, chunk_client::meta_data("disk", {})).size()
              == 3);
        CHECK(client.select("disk", {"x-snap:age", "x-snap:changed", "base:allocation"})
              == selection{{1, "base:allocation"}, {2, "x-snap:changed"}});
        client.go("disk");
        const auto all = client.status(mib, 2 * mib);
        REQUIRE(all.size() == 2);
        CHECK(all[0].id == 1);
        CHECK(all[0].extents == descriptors{{mib, 1}, {mib, 2}});
        CHECK(all[1].id == 2);
        CHECK(all[1].extents == descriptors{{mib, 0xfffffff1}, {mib, 0xfffffff0}});
    }
    SECTION("extended headers: both, and over more than 4 GiB")
    {
        chunk_client client{server.local_endpoint(), style::extended};
        CHECK(client.raw.ask(option::list_meta_context, chunk_client::meta_data("disk", {})).size()
              == 4);
        CHECK(client.select("disk", {"x-snap:age", "x-snap:changed"})
              == selection{{2, "x-snap:changed"}, {3, "x-snap:age"}});
        CHECK(client.go("disk").has(tf::block_status_payload));
        const auto all = client.status(0, 64 * gib);
        REQUIRE(all.size() == 2);
        CHECK(all[0].id == 2);
        CHECK(all[0].extents.size() == 65536);
        CHECK(all[1].id == 3);
        CHECK(all[1].extents == descriptors{{64 * gib, snapshot_disk::age}});
        CHECK(client.status(0, 64 * gib, cf::req_one)[0].extents == descriptors{{mib, 0xfffffff0}});
    }
}

TEMPLATE_TEST_CASE("P66: the payload form chooses among the contexts that were selected", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    nbd::server<nbd::unix_transport, snapshot_disk, TestType> server{
        somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {});
    server.start();
    chunk_client client{server.local_endpoint(), style::extended};
    client.select("disk", {"base:allocation", "x-snap:age"});
    client.go("disk");
    const auto ask = [&](std::uint64_t length, const std::vector<std::uint32_t>& ids,
                         std::size_t more = 0) {
        bytes payload(8 + 4 * ids.size() + more);
        proto::writer to{payload};
        to.put(length);
        for (const auto id : ids)
            to.put(id);
        return client.request(command::block_status, mib, payload.size(), cf::payload_len, payload);
    };
    auto all = client.status(ask(5 * gib, {3}));
    REQUIRE(all.size() == 1);
    CHECK(all[0].id == 3);
    CHECK(all[0].extents == descriptors{{5 * gib, snapshot_disk::age}});
    all = client.status(ask(mib, {3, 1}));
    REQUIRE(all.size() == 2);
    CHECK(all[0].extents == descriptors{{mib, 1}});

    // unknown, not selected, twice, none, and lengths that do not add up; then a bad range
    for (const auto& ids : std::vector<std::vector<std::uint32_t>>{
             {4}, {0}, {2}, {1, 2}, {1, 1}, {1, 3, 1}, {}, {1, 2, 3, 4, 5, 6}})
        CHECK(ask(mib, ids).error() == error_value::einval);
    CHECK(ask(mib, {1}, 2).error() == error_value::einval);
    CHECK(ask(0, {1}).error() == error_value::einval);
    CHECK(ask(64 * gib, {1}).error() == error_value::einval);
    CHECK(ask(~std::uint64_t{0}, {1}).error() == error_value::einval);
    for (const std::size_t n : {1U, 7U, 60'000U, 70'000U, 1U << 20}) {
        const bytes payload(n);
        CHECK(client.request(command::block_status, 0, n, cf::payload_len, payload).error()
              == error_value::einval);
    }
    CHECK(client.request(command::block_status, 0, 0, cf::payload_len).error()
          == error_value::einval);
    CHECK(client.status(0, mib).size() == 2);
}

TEMPLATE_TEST_CASE("P42, P43: a selection applies to its export, until the next SET", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    nbd::server<nbd::unix_transport, snapshot_disk, TestType> server{
        somewhere<nbd::unix_transport>()};
    server.exports().emplace("a", {});
    server.exports().emplace("b", {});
    server.start();
    const auto error_at = [](chunk_client& client, const char* name) {
        client.go(name);
        const auto error = client.request(command::block_status, 0, mib).error();
        CHECK(client.read(0, 512).error() == error_value::none);
        return error;
    };
    for (const auto s : both_styles) {
        chunk_client other{server.local_endpoint(), s};
        other.select("a", {"base:allocation"});
        CHECK(error_at(other, "b") == error_value::einval);

        chunk_client same{server.local_endpoint(), s};
        same.select("b", {"base:allocation"});
        CHECK(error_at(same, "b") == error_value::none);

        chunk_client by_default{server.local_endpoint(), s};
        by_default.select("", {"base:allocation"});
        CHECK(error_at(by_default, "a") == error_value::none);

        chunk_client none{server.local_endpoint(), s};
        CHECK(error_at(none, "a") == error_value::einval);

        chunk_client failed{server.local_endpoint(), s};
        failed.select("a", {"base:allocation"});
        CHECK(failed.raw
                  .ask(option::set_meta_context,
                       chunk_client::meta_data("nosuch", {"base:allocation"}))
                  .back()
                  .type
              == option_reply::err_unknown);
        CHECK(error_at(failed, "a") == error_value::einval);

        chunk_client malformed{server.local_endpoint(), s};
        malformed.select("a", {"base:allocation"});
        CHECK(malformed.raw.ask(option::set_meta_context, bytes(9)).back().type
              == option_reply::err_invalid);
        CHECK(error_at(malformed, "a") == error_value::einval);
    }
}

TEMPLATE_TEST_CASE("P66: extents keep to the minimum block size", "", nbd::per_client_threads,
                   nbd::strand_pool)
{
    liar disk{[](std::uint64_t, nbd::extent_list& to) {
        to.add(100, 3);
        to.add(4096, 0);
        to.add(8192 - 100, 3);
        to.add(3, 1);
    }};
    nbd::server<nbd::unix_transport, liar, TestType> server{somewhere<nbd::unix_transport>()};
    server.exports().add("disk", disk, {.blocks = nbd::block_sizes{4096, 4096, 1 << 20}});
    server.start();
    for (const auto s : both_styles) {
        chunk_client client{server.local_endpoint(), s};
        client.select("disk", {"base:allocation"});
        client.go("disk");
        CHECK(client.status(0, mib)[0].extents == descriptors{{8192, 0}, {4096, 3}});
        CHECK(client.status(0, mib, cf::req_one)[0].extents == descriptors{{4096, 0}});
        CHECK(client.request(command::block_status, 1, 4096).error() == error_value::einval);
        CHECK(client.request(command::block_status, 0, 4095).error() == error_value::einval);
    }
}

TEMPLATE_TEST_CASE("B12: wrong extents are clamped or EIO, and the connection stays", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    struct lie {
        std::string name;
        std::function<void(std::uint64_t, nbd::extent_list&)> tell;
        error_value error;
        descriptors told;  ///< of the first 1 MiB
    };
    const std::vector<lie> lies{
        {"empty", [](std::uint64_t, nbd::extent_list&) {}, error_value::eio, {}},
        {"no length",
         [](std::uint64_t, nbd::extent_list& to) {
             for (int i = 0; i < 100; ++i)
                 to.add(0, 3);
         },
         error_value::eio,
         {}},
        {"beyond the end",
         [](std::uint64_t, nbd::extent_list& to) {
             to.add(most, 3);
             to.add(most, 0);
         },
         error_value::none,
         {{mib, 3}}},
        {"wraps",
         [](std::uint64_t, nbd::extent_list& to) {
             to.add(1, 0);
             to.add(most, 3);
         },
         error_value::none,
         {{1, 0}, {mib - 1, 3}}},
        {"too little",
         [](std::uint64_t, nbd::extent_list& to) { to.add(7, 1); },
         error_value::none,
         {{7, 1}}},
        {"throws",
         [](std::uint64_t, nbd::extent_list& to) {
             to.add(7, 1);
             throw std::runtime_error{"no idea"};
         },
         error_value::eio,
         {}},
    };
    nbd::server<nbd::unix_transport, liar, TestType> server{somewhere<nbd::unix_transport>()};
    for (const auto& l : lies)
        server.exports().add(l.name, liar{l.tell});
    server.exports().add("many", liar{[](std::uint64_t, nbd::extent_list& to) {
                             for (std::uint64_t i = 0; i < mib; ++i)
                                 to.add(1, i & 1);
                         }});
    server.start();
    for (const auto s : both_styles) {
        for (const auto& l : lies) {
            CAPTURE(l.name);
            chunk_client client{server.local_endpoint(), s};
            client.select(l.name, {"base:allocation"});
            client.go(l.name);
            const auto reply = client.request(command::block_status, 4096, mib);
            CHECK(reply.error() == l.error);
            if (l.error == error_value::none)
                CHECK(client.status(reply)[0].extents == l.told);
            else
                CHECK_FALSE(reply.text().empty());
            // READ returns the same data, whether the extents are true or not
            CHECK(client.read(4096, 128 << 10).data(4096, 128 << 10)
                  == bytes(128 << 10, std::byte{0}));
        }
        chunk_client client{server.local_endpoint(), s};
        client.select("many", {"base:allocation"});
        client.go("many");
        CHECK(client.status(0, mib)[0].extents.size() == 131'072);
        CHECK(client.status(0, mib, cf::req_one)[0].extents.size() == 1);
    }
}
