// SPDX-License-Identifier: MIT
#pragma once

#include "catch.hpp"
#include "grid/backends.hpp"
#include "grid/server_fixture.hpp"

#include <cstring>
#include <numeric>
#include <tuple>

/// Tests for every combination of transport, policy and backend. The *.test.cpp files beside this
/// one list them; each composition is a type with Transport, Backend and Policy.
namespace grid {

using proto::command;
using proto::error_value;
using proto::option;
using proto::option_reply;
namespace cf = proto::command_flag;
namespace tf = proto::transmission_flag;

template <class T, class B, class P>
struct composition {
    using transport = T;
    using backend = B;
    using server = nbd::server<T, B, P>;
    static constexpr std::uint64_t size = 40U << 20;

    static void add_exports(server& s)
    {
        s.exports().emplace("disk", {.description = "the one to write to"}, size);
        s.exports().emplace("looking-only", {.read_only = true}, size);
        s.exports().emplace(
            "blocks",
            {.blocks = nbd::block_sizes{.minimum = 4096, .preferred = 8192, .maximum = 65536}},
            size);
    }
};

template <class C>
void handshake_suite()
{
    typename C::server server{somewhere<typename C::transport>()};
    C::add_exports(server);
    server.start();
    auto client = connect(server);
    client.greet();

    // P30: one SERVER for each export, then ACK.
    const auto list = client.ask(option::list);
    REQUIRE(list.size() == 4);
    CHECK(list[0].type == option_reply::server);
    CHECK(list[0].data.size() == 4 + 6 + 6);  // "blocks" describes itself

    // P20: an unknown option keeps the stream in step. P33: so does one with inconsistent lengths.
    CHECK(client.ask(static_cast<option>(4711), pattern(100)).back().type
          == option_reply::err_unsup);
    CHECK(client.ask(option::info, pattern(5)).back().type == option_reply::err_invalid);
    CHECK(client.ask(option::info, raw_client::info_data("nowhere")).back().type
          == option_reply::err_unknown);

    // P35, P45: every kind of information, then ACK.
    const auto info = client.ask(option::info, raw_client::info_data("blocks", {0, 1, 2, 3, 77}));
    REQUIRE(info.size() == 5);
    CHECK(info[0].data.size() == 12);
    CHECK(info[3].data.size() == 14);
    CHECK(proto::load<std::uint32_t>(std::span{info[3].data}.subspan(2)) == 4096);

    // P36: a GO after the INFO gives the same information.
    const auto go = client.ask(option::go, raw_client::info_data("blocks", {0, 1, 2, 3, 77}));
    REQUIRE(go.size() == 5);
    for (std::size_t i = 0; i < go.size(); ++i)
        CHECK(go[i].data == info[i].data);
    CHECK(client.read(0, 4096));
    client.disconnect();
    CHECK(client.closed(1));

    // P28: EXPORT_NAME with and without the 124 zeroes; the empty name is the first export.
    for (const std::uint32_t flags : {0U, 1U, 3U}) {
        auto old = connect(server);
        old.greet(flags);
        old.send_option(option::export_name);
        const auto answer = old.receive((flags & 2) != 0 ? 10 : 134);
        CHECK(proto::load<std::uint64_t>(answer) == C::size);
        CHECK(old.request(command::read, 0, 0) == error_value::none);
    }
    auto lost = connect(server);
    lost.greet();
    lost.send_option(option::export_name, std::as_bytes(std::span{"nowhere", 7}));
    CHECK(lost.closed(1));

    // P29: ABORT is acknowledged.
    auto aborting = connect(server);
    aborting.greet();
    CHECK(aborting.ask(option::abort, pattern(10)).back().type == option_reply::ack);
    CHECK(aborting.closed(1));

    // P14: flags that were not offered end the session.
    auto strange = connect(server);
    strange.greet(4);
    CHECK(strange.closed(1));
}

template <class C>
void data_suite()
{
    typename C::server server{somewhere<typename C::transport>()};
    C::add_exports(server);
    server.start();
    auto client = connect(server);
    CHECK(client.go("disk").size == C::size);

    bytes shadow(C::size);
    const auto write = [&](std::uint64_t offset, std::size_t length, unsigned seed) {
        const auto data = pattern(length, seed);
        REQUIRE(client.write(offset, data, seed % 2 != 0 ? cf::fua : std::uint16_t{0})
                == error_value::none);
        std::copy(data.begin(), data.end(), shadow.begin() + static_cast<std::ptrdiff_t>(offset));
    };
    const auto check = [&](std::uint64_t offset, std::size_t length) {
        const auto data = client.read(offset, length);
        REQUIRE(data);
        if constexpr (remembers<typename C::backend>)
            CHECK(std::memcmp(data->data(), shadow.data() + offset, length) == 0);
    };

    // Lengths around every size at which data take another path, at both ends of the disk.
    unsigned seed = 0;
    for (const std::size_t length : {1U, 511U, 4096U, 8192U, 8193U, 65535U, 65536U, 65537U, 131072U,
                                     133104U, 133105U, 1U << 20, (1U << 20) + 1, 32U << 20}) {
        write(0, length, ++seed);
        write(C::size - length, length, ++seed);
        check(0, length);
        check(C::size - length, length);
    }
    CHECK(client.request(command::flush, 0, 0) == error_value::none);

    // P63, P65: both ranges read as zero here, and other bytes do not change.
    for (const auto c : {command::trim, command::write_zeroes}) {
        write(1 << 20, 1 << 20, ++seed);
        CHECK(client.request(c, (1 << 20) + 1000, 500'000, cf::fua) == error_value::none);
        std::fill_n(shadow.begin() + (1 << 20) + 1000, 500'000, std::byte{0});
        check(1 << 20, 1 << 20);
    }
    CHECK(client.request(command::write_zeroes, 3 << 20, 70'000, cf::no_hole) == error_value::none);
    std::fill_n(shadow.begin() + (3 << 20), 70'000, std::byte{0});
    check((3 << 20) - 1000, 72'000);

    // P68: length 0 is not an error and changes nothing.
    for (const auto c : {command::write, command::trim, command::write_zeroes})
        CHECK(client.request(c, 5, 0) == error_value::none);
    CHECK(client.read(C::size, 0));

    // Many requests in one send: answered in order, each with its cookie and its data.
    bytes batch;
    for (std::uint64_t i = 0; i < 200; ++i) {
        if (i % 3 == 0) {
            const auto data = pattern(4096, static_cast<unsigned>(i));
            raw_client::append(
                batch, {.command = command::write, .cookie = i, .offset = i * 4096, .length = 4096},
                data);
            std::copy(data.begin(), data.end(),
                      shadow.begin() + static_cast<std::ptrdiff_t>(i * 4096));
        } else {
            raw_client::append(batch, {.cookie = i, .offset = (i - i % 3) * 4096, .length = 4096});
        }
    }
    client.send(batch);
    for (std::uint64_t i = 0; i < 200; ++i) {
        const auto reply = client.receive_reply();
        REQUIRE(reply == proto::simple_reply{.cookie = i});
        if (i % 3 == 0)
            continue;
        const auto data = client.receive(4096);
        if constexpr (remembers<typename C::backend>)
            REQUIRE(std::equal(data.begin(), data.end(),
                               shadow.begin() + static_cast<std::ptrdiff_t>((i - i % 3) * 4096)));
    }

    // The same, one byte at a time: the pieces of the stream do not matter.
    for (std::size_t i = 0; i < 3 * proto::request_bytes + 4096; ++i)
        client.send(std::span{batch}.subspan(i, 1));
    for (int i = 0; i < 3; ++i) {
        CHECK(client.receive_reply().cookie == static_cast<std::uint64_t>(i));
        if (i != 0)
            std::ignore = client.receive(4096);
    }
    client.disconnect();
    CHECK(client.closed(1));
}

template <class C>
void refusal_suite()
{
    typename C::server server{somewhere<typename C::transport>()};
    C::add_exports(server);
    server.start();
    auto client = connect(server);
    client.go("disk");
    const auto data = pattern(5000);
    constexpr auto top = ~std::uint64_t{0};

    // P87: past the end. No sum wraps.
    for (const std::uint64_t offset :
         {C::size, C::size - 1, top, top - 4998, std::uint64_t{1} << 63}) {
        CHECK_FALSE(client.read(offset, 5000));
        CHECK(client.write(offset, data) == error_value::enospc);
        CHECK(client.request(command::trim, offset, 5000) == error_value::einval);
        CHECK(client.request(command::write_zeroes, offset, 0xffffffff) == error_value::enospc);
    }
    CHECK(client.request(command::read, 0, (32 << 20) + 1) == error_value::einval);  // P96
    CHECK(client.request(static_cast<command>(9), 0, 0) == error_value::einval);     // P87
    CHECK(client.request(command::block_status, 0, 512) == error_value::einval);
    CHECK(client.request(command::read, 0, 512, cf::df) == error_value::einval);  // P58
    CHECK(client.write(0, data, 1 << 9) == error_value::einval);
    CHECK(client.request(command::flush, 0, 512) == error_value::einval);  // P62
    CHECK(client.read(0, 512));

    auto looking = connect(server);
    CHECK((looking.go("looking-only").flags & tf::read_only) != 0);
    CHECK(looking.write(0, pattern(100'000)) == error_value::eperm);
    CHECK(looking.write(C::size, data) == error_value::eperm);  // P97: permission before range
    CHECK(looking.request(command::trim, 0, 512) == error_value::eperm);
    CHECK(looking.request(command::write_zeroes, 0, 512) == error_value::eperm);
    CHECK(looking.read(0, 512));

    auto aligned = connect(server);
    aligned.go("blocks");
    CHECK_FALSE(aligned.read(1, 4096));  // P80
    CHECK_FALSE(aligned.read(0, 4097));
    CHECK_FALSE(aligned.read(0, 65536 + 4096));
    CHECK(aligned.write(512, data) == error_value::einval);
    CHECK(aligned.write(0, pattern(65536 + 4096)) == error_value::einval);  // P78: consumed
    CHECK(aligned.request(command::write_zeroes, 0, 1 << 20) == error_value::none);  // P79
    CHECK(aligned.read(4096, 8192));

    // P78: a payload that is too long to consume ends the connection; P47: so does a wrong magic,
    // after the replies to earlier requests.
    aligned.send_request({.command = command::write, .length = (32 << 20) + 1});
    CHECK(aligned.closed(1));
    bytes batch;
    raw_client::append(batch, {.cookie = 5, .length = 16});
    batch.resize(batch.size() + proto::request_bytes, std::byte{0x25});
    client.send(batch);
    CHECK(client.receive_reply().cookie == 5);
    std::ignore = client.receive(16);
    CHECK(client.closed(1));

    CHECK(looking.read(0, 512));  // other clients are not affected
}

template <class... Compositions>
struct all_of {
    static void handshake() { (handshake_suite<Compositions>(), ...); }
    static void data() { (data_suite<Compositions>(), ...); }
    static void refusal() { (refusal_suite<Compositions>(), ...); }
};

template <class Transport, class Policy>
using every_backend = all_of<composition<Transport, nbd::mem_backend, Policy>,
                             composition<Transport, nbd::null_backend, Policy>,
                             composition<Transport, plain_disk, Policy>,
                             composition<Transport, callback_disk, Policy>>;

}  // namespace grid
