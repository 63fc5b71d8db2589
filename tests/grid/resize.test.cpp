// SPDX-License-Identifier: MIT
// Exports whose size changes while clients are connected, and exports that require block sizes.
#include "catch.hpp"
#include "grid/chunk_client.hpp"
#include "grid/server_fixture.hpp"

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <vector>

namespace {

using namespace grid;
using proto::command;
using proto::error_value;
using proto::option;
using proto::option_reply;
using style = proto::reply_style;
namespace tf = proto::transmission_flag;

constexpr std::uint64_t mib = 1 << 20;

template <class P>
using mem_server = nbd::server<nbd::unix_transport, nbd::mem_backend, P>;

std::uint64_t size_by_go(const auto& server)
{
    auto client = connect(server);
    return client.go("disk").size;
}

}  // namespace

TEMPLATE_TEST_CASE("P67: an export grows, and connected clients can use the new part at once", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    mem_server<TestType> server{somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {}, mib, nbd::mem_settings{.max_size = 4 * mib});
    server.start();
    auto old = connect(server);
    CHECK(old.go("disk").size == mib);
    const auto data = pattern(4096);
    CHECK(old.write(4 * mib - 4096, data) == error_value::enospc);
    CHECK_FALSE(old.read(mib, 512));

    chunk_client asking{server.local_endpoint(), style::structured};
    CHECK(asking.info("disk").size == mib);
    CHECK_FALSE(server.exports().resize("disk", 4 * mib));
    CHECK(asking.info("disk").size == 4 * mib);
    CHECK(asking.go("disk").size == 4 * mib);
    CHECK(size_by_go(server) == 4 * mib);

    CHECK(old.read(mib, 512) == bytes(512));
    CHECK(old.write(4 * mib - 4096, data) == error_value::none);
    CHECK(asking.read(4 * mib - 4096, 4096).data(4 * mib - 4096, 4096) == data);
    CHECK(old.write(4 * mib - 4095, data) == error_value::enospc);
}

TEMPLATE_TEST_CASE(
    "P67: requests past a new end are ENOSPC, and a part that comes back reads as zero", "",
    nbd::per_client_threads, nbd::strand_pool)
{
    mem_server<TestType> server{somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {}, 4 * mib);
    server.start();
    auto old = connect(server);
    old.go("disk");
    chunk_client chunks{server.local_endpoint(), style::extended};
    chunks.select("disk", {"base:allocation"});
    chunks.go("disk");
    REQUIRE(old.write(0, bytes(4 * mib, std::byte{0xff})) == error_value::none);

    CHECK_FALSE(server.exports().resize("disk", mib));
    CHECK(size_by_go(server) == mib);
    for (const auto c : {command::read, command::write_zeroes, command::trim, command::cache}) {
        CAPTURE(static_cast<int>(c));
        for (const auto at : {mib - 1, mib, 4 * mib - 2}) {
            CHECK(old.request(c, at, 2) == error_value::enospc);
            CHECK(chunks.request(c, at, 2).error() == error_value::enospc);
        }
    }
    CHECK(old.write(mib, pattern(512)) == error_value::enospc);
    CHECK(chunks.write(mib, pattern(512)) == error_value::enospc);
    CHECK(chunks.request(command::block_status, mib - 1, 2).error() == error_value::enospc);
    // past the largest size that was advertised, errors are as usual
    CHECK(old.request(command::read, 4 * mib, 1) == error_value::einval);
    CHECK(old.request(command::trim, 4 * mib, 1) == error_value::einval);
    CHECK(old.read(mib - 512, 512) == bytes(512, std::byte{0xff}));

    // a new client was given the smaller size
    auto fresh = connect(server);
    fresh.go("disk");
    CHECK(fresh.request(command::read, mib, 1) == error_value::einval);
    CHECK(fresh.write(mib, pattern(1)) == error_value::enospc);

    CHECK_FALSE(server.exports().resize("disk", 4 * mib));
    CHECK(old.read(mib, 3 * mib) == bytes(3 * mib));
    CHECK(fresh.read(4 * mib - 512, 512) == bytes(512));
    CHECK(chunks.status(0, 4 * mib).size() == 1);
}

TEMPLATE_TEST_CASE(
    "P67: a WRITE whose range is cut off before its payload arrives is ENOSPC and writes nothing",
    "", nbd::per_client_threads, nbd::strand_pool)
{
    std::atomic<int> asked{0};
    nbd::server<nbd::unix_transport, nbd::mem_backend, TestType, request_counter> server{
        somewhere<nbd::unix_transport>(), {}, {}, request_counter{&asked}};
    server.exports().emplace("disk", {}, mib);
    server.exports().emplace("removed", {}, mib);
    server.start();
    auto late = connect(server);
    late.go("disk");
    bytes head;
    raw_client::append(
        head, {.command = command::write, .cookie = 7, .offset = mib - 300'000, .length = 300'000});
    late.send(head);
    late.send(bytes(100'000, std::byte{0xee}));
    auto removed = connect(server);
    removed.go("removed");
    removed.send(head);
    removed.send(bytes(100'000, std::byte{0xee}));
    for (int seen = 0; seen != 2; seen = asked.load())
        asked.wait(seen);

    REQUIRE_FALSE(server.exports().resize("disk", 512 * 1024));
    REQUIRE(server.exports().remove("removed"));
    for (auto* c : {&late, &removed})
        c->send(bytes(200'000, std::byte{0xee}));
    CHECK(late.receive_reply().error == error_value::enospc);
    CHECK(removed.receive_reply().error == error_value::eshutdown);
    REQUIRE_FALSE(server.exports().resize("disk", mib));
    CHECK((late.read(512 * 1024, 512 * 1024) == bytes(512 * 1024)));
}

TEMPLATE_TEST_CASE("P67: a resize that is not possible is an error and changes nothing", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    mem_server<TestType> server{somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {.blocks = nbd::block_sizes{4096, 4096, 1 << 20}}, mib,
                             nbd::mem_settings{.max_size = 2 * mib});
    server.start();
    auto client = connect(server);
    client.go("disk");
    CHECK(server.exports().resize("nosuch", mib) == nbd::errc::unknown_export);
    CHECK(server.exports().resize("disk", 2 * mib + 4096) == std::errc::no_space_on_device);
    CHECK(server.exports().resize("disk", mib + 512) == std::errc::invalid_argument);
    CHECK(server.exports().resize("disk", std::uint64_t{1} << 63) == std::errc::invalid_argument);
    CHECK(size_by_go(server) == mib);
    CHECK(client.read(mib - 4096, 4096));
    CHECK(server.exports().remove("disk"));
    CHECK(server.exports().resize("disk", mib) == nbd::errc::unknown_export);
}

TEMPLATE_TEST_CASE("P67: the RESIZE command is refused, unless the export allows it", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    mem_server<TestType> server{somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {}, mib, nbd::mem_settings{.max_size = 2 * mib});
    server.exports().emplace("allowed", {.allow_resize = true}, mib,
                             nbd::mem_settings{.max_size = 2 * mib});
    server.exports().emplace("read-only", {.read_only = true, .allow_resize = true}, mib,
                             nbd::mem_settings{.max_size = 2 * mib});
    server.start();
    for (const auto* const name : {"disk", "read-only"}) {
        auto client = connect(server);
        CHECK_FALSE(client.go(name).has(tf::send_resize));
        CHECK(client.request(command::resize, 2 * mib, 0) != error_value::none);
        CHECK_FALSE(client.read(mib, 1));
        CHECK(client.read(0, 512));
    }
    auto client = connect(server);
    CHECK(client.go("allowed").has(tf::send_resize));
    CHECK(client.request(command::resize, 2 * mib, 0) == error_value::none);
    CHECK(client.write(2 * mib - 512, pattern(512)) == error_value::none);
    CHECK(client.request(command::resize, 2 * mib + 1, 0) == error_value::enospc);
    CHECK(client.request(command::resize, ~std::uint64_t{0}, 0) != error_value::none);
    CHECK(client.request(command::resize, mib, 0) == error_value::none);
    CHECK(client.request(command::read, 2 * mib - 512, 512) == error_value::enospc);
    CHECK(client.request(command::resize, 0, 0) == error_value::none);
    CHECK(client.request(command::read, 0, 1) == error_value::enospc);
    CHECK(client.request(command::resize, 2 * mib, 0) == error_value::none);
    CHECK(client.read(2 * mib - 512, 512) == bytes(512));

    chunk_client other{server.local_endpoint(), style::extended};
    CHECK(other.go("allowed").size == 2 * mib);
    CHECK(other.request(command::resize, mib, 0).error() == error_value::none);
    CHECK(client.request(command::read, mib, 1) == error_value::enospc);
}

TEMPLATE_TEST_CASE("P27, P37, P77: an export that requires clients to ask for block sizes", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    mem_server<TestType> server{somewhere<nbd::unix_transport>()};
    server.exports().emplace(
        "disk", {.blocks = nbd::block_sizes{512, 4096, 1 << 20}, .require_block_sizes = true}, mib);
    // default block sizes are never required
    server.exports().emplace("default", {.require_block_sizes = true}, mib);
    server.start();
    for (const auto o : {option::info, option::go}) {
        auto client = connect(server);
        client.greet();
        for (int i = 0; i < 2; ++i) {
            const auto refused = client.ask(o, raw_client::info_data("disk", {1, 2}));
            REQUIRE(refused.size() == 2);
            CHECK(refused[0].type == option_reply::info);
            CHECK(proto::load<std::uint16_t>(refused[0].data) == 3);
            CHECK(proto::load<std::uint32_t>(std::span{refused[0].data}.subspan(2)) == 512);
            CHECK(refused[1].type == option_reply::err_block_size_reqd);
        }
        const auto answers = client.ask(o, raw_client::info_data("disk", {3}));
        CHECK(answers.back().type == option_reply::ack);
        CHECK(answers.size() == 3);
        if (o == option::info)
            CHECK(client.ask(option::go, raw_client::info_data("disk", {3})).back().type
                  == option_reply::ack);
        CHECK(client.read(0, 512));
        CHECK_FALSE(client.read(0, 511));
        CHECK_FALSE(client.read(1, 512));
        CHECK(client.read(512, 512));
    }
    auto easy = connect(server);
    CHECK(easy.go("default").size == mib);

    const auto name = [](std::string_view n) {
        bytes data(n.size());
        proto::writer{data}.put_text(n);
        return data;
    };
    auto blunt = connect(server);
    blunt.greet();
    blunt.send_option(option::export_name, name("disk"));
    CHECK(blunt.closed());
    auto lucky = connect(server);
    lucky.greet();
    lucky.send_option(option::export_name, name("default"));
    CHECK(lucky.receive(10).size() == 10);
    CHECK(lucky.read(0, 1));
}
