// SPDX-License-Identifier: MIT
// Extended headers over a socket: 64-bit lengths, PAYLOAD_LEN, and no other header style.
#include "catch.hpp"
#include "grid/chunk_client.hpp"
#include "grid/server_fixture.hpp"

#include <memory>
#include <system_error>

namespace {

using namespace grid;
using proto::chunk;
using proto::command;
using proto::error_value;
using proto::option;
using proto::option_reply;
using style = proto::reply_style;
namespace cf = proto::command_flag;

constexpr std::uint64_t mib = 1 << 20;
constexpr std::uint64_t tib = std::uint64_t{1} << 40;

template <class P>
using mem_server = nbd::server<nbd::unix_transport, nbd::mem_backend, P>;

bool has_address_space()
{
    try {
        const nbd::mem_backend disk{tib};
        return true;
    } catch (const std::system_error&) {
        return false;
    }
}

}  // namespace

TEMPLATE_TEST_CASE("P50, P65: one request zeroes, trims, caches or describes 1 TiB at once", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    if (!has_address_space())
        NBD_SKIP("no address space for 1 TiB");
    mem_server<TestType> server{somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {}, tib);
    server.start();
    chunk_client client{server.local_endpoint(), style::extended};
    client.select("disk", {"base:allocation"});
    CHECK(client.go("disk").size == tib);
    const auto data = pattern(8192);
    REQUIRE(client.write(tib - 8192, data) == error_value::none);
    REQUIRE(client.write(4096, data) == error_value::none);
    CHECK(client.request(command::write_zeroes, 0, tib).error() == error_value::none);
    CHECK(client.read(tib - 8192, 8192).data(tib - 8192, 8192) == bytes(8192));
    CHECK(client.request(command::write_zeroes, 0, tib, cf::fast_zero | cf::fua).error()
          == error_value::none);
    CHECK(client.request(command::trim, 0, tib, cf::fua).error() == error_value::none);
    CHECK(client.request(command::cache, 0, tib).error() == error_value::none);
    const auto told = client.status(0, tib);
    std::uint64_t sum = 0;
    for (const auto& e : told.at(0).extents)
        sum += e.length;
    CHECK(sum == tib);

    // the maximum payload is the same with extended headers
    CHECK(client.read(0, tib).error() == error_value::einval);
    CHECK(client.read(0, (32 * mib) + 1).error() == error_value::einval);
    // past the end, and sums that wrap
    CHECK(client.request(command::write_zeroes, 1, tib).error() == error_value::enospc);
    CHECK(client.request(command::write_zeroes, 4096, ~std::uint64_t{0} - 4095).error()
          == error_value::enospc);
    CHECK(client.request(command::trim, 1, tib).error() == error_value::einval);
    CHECK(client.request(command::trim, ~std::uint64_t{0}, 2).error() == error_value::einval);
}

TEMPLATE_TEST_CASE("P53: with extended headers every reply is extended", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    mem_server<TestType> server{somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {}, mib);
    server.start();
    chunk_client client{server.local_endpoint(), style::extended};
    client.go("disk");
    // chunk_client throws at any other magic, cookie or offset
    for (const auto c : {command::flush, command::trim, command::cache, command::write_zeroes}) {
        const auto reply = client.request(c, 0, c == command::flush ? 0 : 4096);
        CHECK(reply.error() == error_value::none);
        CHECK(reply.last().type == chunk::none);
    }
    CHECK(client.request(command::flush, 0, 1).last().type == chunk::error);
    CHECK(client.request(static_cast<command>(4711), 5, 6).error() == error_value::einval);
    CHECK(client.request(command::resize, 5, 0).error() == error_value::einval);
    client.send_request(command::disc, 0, 0);
    CHECK(client.raw.closed());
}

TEMPLATE_TEST_CASE("P55: PAYLOAD_LEN says whether a payload follows, and a WRITE must have it", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    mem_server<TestType> server{somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {}, 64 * mib);
    server.exports().emplace("read-only", {.read_only = true}, 64 * mib);
    server.start();
    chunk_client client{server.local_endpoint(), style::extended};
    client.go("disk");
    const auto data = pattern(4096);
    REQUIRE(client.write(0, data) == error_value::none);
    // without the flag there is no payload
    CHECK(client.request(command::write, 0, 4096).error() == error_value::einval);
    CHECK(client.request(command::write, 0, 64 * mib).error() == error_value::einval);
    // a payload of another command is consumed
    for (const auto c :
         {command::read, command::flush, command::trim, command::cache, command::write_zeroes,
          command::block_status, command::resize, static_cast<command>(99)}) {
        for (const std::size_t n : {0U, 1U, 4096U, 65536U, 65537U, 1U << 20}) {
            CAPTURE(static_cast<int>(c), n);
            const auto payload = pattern(n);
            CHECK(client.request(c, 0, n, cf::payload_len, payload).error() == error_value::einval);
        }
    }
    CHECK(client.read(0, 4096).data(0, 4096) == data);
    // the payload of a refused WRITE is consumed as well, up to 32 MiB
    CHECK(client.write(64 * mib - 1, data) == error_value::enospc);
    CHECK(client.write(64 * mib, bytes(32 * mib)) == error_value::enospc);
    CHECK(client.read(0, 4096).data(0, 4096) == data);

    chunk_client reader{server.local_endpoint(), style::extended};
    reader.go("read-only");
    CHECK(reader.write(0, data) == error_value::eperm);
    CHECK(reader.read(0, 512).error() == error_value::none);

    SECTION("a payload that is too long ends the connection")
    {
        client.send_request(command::write, 0, 32 * mib + 1, cf::payload_len);
        CHECK(client.raw.closed());
    }
    SECTION("a payload of 2^64 bytes ends the connection, for any command")
    {
        client.send_request(command::trim, 0, ~std::uint64_t{0}, cf::payload_len);
        CHECK(client.raw.closed());
    }
}

TEMPLATE_TEST_CASE("P47, P50: the magic of the other header style ends the connection", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    mem_server<TestType> server{somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {}, mib);
    server.start();
    SECTION("an extended request without extended headers")
    {
        for (const auto s : {style::simple, style::structured}) {
            chunk_client client{server.local_endpoint(), s};
            client.go("disk");
            bytes message(proto::extended_request_bytes);
            proto::writer{message}
                .put(proto::extended_request_magic)
                .put(std::uint16_t{0})
                .put(command::read)
                .put(std::uint64_t{1})
                .put(std::uint64_t{0})
                .put(std::uint64_t{512});
            client.raw.send(message);
            CHECK(client.raw.closed());
        }
    }
    SECTION("a compact request with extended headers")
    {
        chunk_client client{server.local_endpoint(), style::extended};
        client.go("disk");
        bytes two;  // at least as long as an extended header
        raw_client::append(two, {.length = 512});
        raw_client::append(two, {.length = 512});
        client.raw.send(two);
        CHECK(client.raw.closed());
    }
}

TEMPLATE_TEST_CASE("P28, P38, P44: restrictions of extended headers in the handshake", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    mem_server<TestType> server{somewhere<nbd::unix_transport>()};
    server.exports().emplace("disk", {}, mib);
    server.start();
    chunk_client client{server.local_endpoint(), style::extended};
    CHECK(client.raw.ask(option::structured_reply).back().type
          == option_reply::err_ext_header_reqd);
    CHECK(client.raw.ask(option::extended_headers, bytes(1)).back().type
          == option_reply::err_invalid);
    SECTION("GO works, and is extended")
    {
        client.go("disk");
        CHECK(client.read(0, 512).data(0, 512) == bytes(512));
    }
    SECTION("EXPORT_NAME ends the connection, because it has no error reply")
    {
        client.raw.send_option(option::export_name, pattern(0));
        CHECK(client.raw.closed());
    }
    SECTION("extended headers override structured replies")
    {
        chunk_client both{server.local_endpoint(), style::structured};
        CHECK(both.raw.ask(option::extended_headers).back().type == option_reply::ack);
        CHECK(both.raw.ask(option::go, raw_client::info_data("disk")).back().type
              == option_reply::ack);
        bytes compact;
        raw_client::append(compact, {.length = 512});
        raw_client::append(compact, {.length = 512});
        both.raw.send(compact);
        CHECK(both.raw.closed());
    }
}
