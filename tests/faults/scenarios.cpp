// SPDX-License-Identifier: MIT
#include "faults/scenarios.hpp"

#include "faults/disks.hpp"
#include "grid/chunk_client.hpp"

#include <cstring>
#include <utility>

namespace faults {
namespace {

using grid::bytes;
using grid::chunk_client;
using grid::raw_client;
using nbd::protocol::command;
using nbd::protocol::error_value;
using nbd::protocol::option;
using nbd::protocol::request;
using style = nbd::protocol::reply_style;
using left = std::optional<raw_client>;

constexpr std::uint64_t block = 4096;
/// Clients write from here on, and expect `content()` below.
constexpr std::uint64_t written = 3 * mib;

void expect(bool holds, const char* otherwise)
{
    if (!holds)
        throw wrong{otherwise};
}
void expect_content(std::uint64_t offset, std::span<const std::byte> data)
{
    expect(std::memcmp(data.data(), content().data() + offset, data.size()) == 0,
           "a READ gave other data");
}

/// One at a time; an error is an answer.
void read(raw_client& c, std::uint64_t offset, std::uint64_t length)
{
    if (const auto data = c.read(offset, length))
        expect_content(offset, *data);
}
void write(raw_client& c, std::uint64_t offset, std::uint64_t length)
{
    const auto data = grid::pattern(length);
    if (c.write(offset, data) != error_value::none)
        return;
    if (const auto there = c.read(offset, length))
        expect(*there == data, "a WRITE left other data");
}

bytes name(std::string_view n)
{
    bytes data(n.size());
    nbd::protocol::writer{data}.put_text(n);
    return data;
}

/// 64 requests at once: most of them READs.
constexpr std::uint64_t depth = 64;

request nth(std::uint64_t i)
{
    const bool writes = i % 8 == 7;
    return {.command = writes ? command::write : command::read,
            .cookie = i,
            .offset = (writes ? written : 0) + i * 3 * block,
            .length = i % 16 == 0 ? 24 * block : block};
}
void send_deep(raw_client& c)
{
    bytes all;
    for (std::uint64_t i = 0; i < depth; ++i) {
        const auto r = nth(i);
        raw_client::append(all, r, bytes(r.payload(), std::byte{0x55}));
    }
    c.send(all);
}
void receive_deep(raw_client& c)
{
    std::uint64_t seen = 0;
    for (std::uint64_t i = 0; i < depth; ++i) {
        const auto reply = c.receive_reply();
        expect(reply.cookie < depth, "a reply to no request");
        expect((seen & std::uint64_t{1} << reply.cookie) == 0, "a second reply to one request");
        seen |= std::uint64_t{1} << reply.cookie;
        const auto r = nth(reply.cookie);
        if (reply.error == error_value::none && r.command == command::read)
            expect_content(r.offset, c.receive(static_cast<std::size_t>(r.length)));
    }
}
raw_client connected(const endpoint& to)
{
    raw_client c{to};
    c.go("disk");
    return c;
}
void expect_close(raw_client& c)
{
    expect(c.closed(), "the server did not close the connection");
}
void leave(raw_client& c)
{
    c.disconnect();
    expect_close(c);
}
void leave(chunk_client& c)
{
    c.send_request(command::disc, 0, 0);
    expect_close(c.raw);
}

void chunked_session(const endpoint& to, style s)
{
    chunk_client c{to, s};
    const auto contexts = c.select("disk", {"base:allocation"});
    c.go("disk");
    for (const auto& [offset, length] :
         {std::pair{std::uint64_t{512}, block}, {stripe / 2, 2 * stripe}, {2 * mib, mib}}) {
        const auto reply = c.read(offset, length);
        if (reply.error() == error_value::none)
            expect_content(offset, reply.data(offset, static_cast<std::size_t>(length)));
    }
    std::ignore = c.write(written, grid::pattern(block));
    if (!contexts.empty()) {
        const auto reply = c.request(command::block_status, 0, disk_bytes);
        if (reply.error() == error_value::none)
            expect(!c.status(reply).empty(), "a BLOCK_STATUS without extents");
    }
    leave(c);
}

std::vector<scenario> all()
{
    std::vector<scenario> s;
    const auto add = [&](std::string n, auto play) {
        s.push_back({std::move(n), [play](const endpoint& to) {
                         raw_client c{to};
                         play(c);
                         return left{};
                     }});
    };
    // --- handshake
    add("LIST and ABORT", [](raw_client& c) {
        c.greet();
        std::ignore = c.ask(option::list);
        c.send_option(option::abort);
        expect_close(c);
    });
    add("INFO, then GO", [](raw_client& c) {
        c.greet();
        std::ignore = c.ask(option::info, raw_client::info_data("disk", {1, 2, 3}));
        std::ignore = c.ask(option::info, raw_client::info_data("nosuch"));
        std::ignore = c.ask(option::go, raw_client::info_data("disk", {3}));
        read(c, 0, block);
        leave(c);
    });
    add("GO to an export that is unknown", [](raw_client& c) {
        c.greet();
        std::ignore = c.ask(option::go, raw_client::info_data("nosuch"));
        std::ignore = c.ask(option::peek_export);
    });
    add("EXPORT_NAME", [](raw_client& c) {
        c.greet();
        c.send_option(option::export_name, name("disk"));
        std::ignore = c.receive(10);
        read(c, 0, block);
        leave(c);
    });
    add("meta contexts", [](raw_client& c) {
        c.greet();
        std::ignore = c.ask(option::structured_reply);
        std::ignore = c.ask(option::list_meta_context, chunk_client::meta_data("disk", {}));
        std::ignore = c.ask(option::set_meta_context,
                            chunk_client::meta_data("disk", {"base:allocation", "qemu:"}));
        std::ignore = c.ask(option::go, raw_client::info_data("disk"));
    });
    add("vanishes in the handshake", [](raw_client& c) {
        c.greet();
        bytes half(10);
        nbd::protocol::writer{half}.put(nbd::protocol::option_magic);
        c.send(half);
    });
    // --- transmission
    add("six requests", [](raw_client& c) {
        c.go("disk");
        read(c, 1000, block);
        write(c, written, block);
        std::ignore = c.request(command::flush, 0, 0);
        std::ignore = c.request(command::trim, written, mib / 2);
        std::ignore = c.request(command::write_zeroes, written + block, mib / 2);
        std::ignore = c.request(command::cache, 0, block);
        leave(c);
    });
    add("requests that are refused", [](raw_client& c) {
        c.go("disk");
        std::ignore = c.request(command::read, disk_bytes, block);
        std::ignore = c.write(disk_bytes, bytes(block));
        std::ignore = c.write(disk_bytes, bytes(mib / 2));
        std::ignore = c.request(static_cast<command>(77), 0, 0);
        read(c, 0, block);
        leave(c);
    });
    add("64 requests at once", [](raw_client& c) {
        c.go("disk");
        for (int i = 0; i < 2; ++i) {
            send_deep(c);
            receive_deep(c);
        }
        leave(c);
    });
    add("large READs", [](raw_client& c) {
        c.go("disk");
        read(c, 0, written);
        read(c, 2 * stripe - block, mib);
        leave(c);
    });
    add("large WRITEs", [](raw_client& c) {
        c.go("disk");
        write(c, written, mib);
        write(c, written + block, mib / 2);
        std::ignore = c.write(written, bytes(mib / 4), nbd::protocol::command_flag::fua);
        leave(c);
    });
    s.push_back({"structured replies", [](const endpoint& to) {
                     chunked_session(to, style::structured);
                     return left{};
                 }});
    s.push_back({"extended headers", [](const endpoint& to) {
                     chunked_session(to, style::extended);
                     return left{};
                 }});
    add("resize", [](raw_client& c) {
        c.go("disk");
        std::ignore = c.request(command::resize, disk_bytes - mib / 2, 0);
        read(c, 0, block);
        std::ignore =
            c.request(command::resize, written + block, 0);  // the next client writes there
        read(c, 0, block);
        std::ignore = c.request(command::resize, disk_bytes, 0);
        leave(c);
    });
    // --- ends
    add("vanishes with 64 requests in flight", [](raw_client& c) {
        c.go("disk");
        send_deep(c);
    });
    add("vanishes without reading its replies", [](raw_client& c) {
        c.go("disk");
        for (std::uint64_t i = 0; i < 16; ++i)
            c.send_request({.cookie = i, .offset = i * block, .length = mib});
        std::ignore = c.receive(1);
    });
    add("vanishes in the payload of a WRITE", [](raw_client& c) {
        c.go("disk");
        bytes head;
        raw_client::append(head, {.command = command::write, .offset = written, .length = mib});
        c.send(head);
        c.send(bytes(mib / 2));
    });
    add("DISC with 64 requests in flight", [](raw_client& c) {
        c.go("disk");
        send_deep(c);
        c.disconnect();
        receive_deep(c);
        expect_close(c);
    });
    add("half-close with 64 requests in flight", [](raw_client& c) {
        c.go("disk");
        send_deep(c);
        ::shutdown(c.fd(), SHUT_WR);
        receive_deep(c);
        expect_close(c);
    });
    // --- the server's end and beginning
    s.push_back({.name = "stop with an idle client",
                 .play = [](const endpoint& to) { return left{connected(to)}; },
                 .stops = true});
    s.push_back({.name = "stop with a client in the handshake",
                 .play =
                     [](const endpoint& to) {
                         raw_client c{to};
                         c.greet();
                         return left{std::move(c)};
                     },
                 .stops = true});
    s.push_back({.name = "stop with 64 requests in flight",
                 .play =
                     [](const endpoint& to) {
                         auto c = connected(to);
                         send_deep(c);
                         return left{std::move(c)};
                     },
                 .stops = true});
    s.push_back({.name = "start",
                 .play =
                     [](const endpoint& to) {
                         auto c = connected(to);
                         leave(c);
                         return left{};
                     },
                 .starts = true});
    return s;
}

}  // namespace

const std::vector<scenario>& scenarios()
{
    static const auto made = all();
    return made;
}

void must_be_served(raw_client& c)
{
    c.go("disk");
    for (const auto& [offset, length] : {std::pair{std::uint64_t{0}, block}, {stripe, mib / 2}}) {
        const auto data = c.read(offset, length);
        expect(data.has_value(), "a READ failed");
        expect_content(offset, *data);
    }
    expect(c.write(written, bytes(block)) == error_value::none, "a WRITE failed");
    c.disconnect();
    expect_close(c);
}

}  // namespace faults
