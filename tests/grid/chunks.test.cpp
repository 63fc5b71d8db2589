// SPDX-License-Identifier: MIT
// READ in chunks over a socket: the chunks contain the data, and errors have texts.
#include "catch.hpp"
#include "grid/chunk_client.hpp"
#include "grid/server_fixture.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

namespace {

using namespace grid;
using proto::chunk;
using proto::command;
using proto::error_value;
using style = proto::reply_style;
namespace cf = proto::command_flag;

constexpr std::uint64_t mib = 1 << 20;

/// A disk with extents that lends nothing; every second block of 64 KiB is a hole.
class striped_disk {
public:
    static constexpr std::uint64_t stripe = 65536;

    explicit striped_disk(std::uint64_t size) : content_{pattern(size)}
    {
        for (std::uint64_t at = 0; at < size; ++at)
            if (is_hole(at))
                content_[at] = std::byte{0};
    }
    static bool is_hole(std::uint64_t at) { return at / stripe % 2 == 1; }

    std::uint64_t size() const { return content_.size(); }
    nbd::failure read(std::uint64_t offset, std::span<std::byte> to)
    {
        std::copy_n(content_.begin() + static_cast<std::ptrdiff_t>(offset), to.size(), to.begin());
        if (offset <= bad && bad < offset + to.size())
            return {std::make_error_code(std::errc::io_error), "sector 4711 is bad", bad};
        return {};
    }
    /// Adds no extent behind `tells_up_to`.
    std::error_code extents(std::uint64_t offset, std::uint64_t length, nbd::extent_list& to)
    {
        const auto end = std::min(offset + length, tells_up_to);
        for (auto at = offset; at < end;) {
            const auto next = std::min((at / stripe + 1) * stripe, end);
            if (!to.add(next - at, is_hole(at) ? 3 : 0))
                break;
            at = next;
        }
        return {};
    }
    std::uint64_t bad = ~std::uint64_t{0};
    std::uint64_t tells_up_to = ~std::uint64_t{0};

private:
    bytes content_;
};

bool equal(const bytes& all, std::uint64_t offset, const bytes& part)
{
    return std::memcmp(part.data(), all.data() + offset, part.size()) == 0;
}

}  // namespace

TEMPLATE_TEST_CASE(
    "P56, P57, P59: the chunks of a READ are exactly the data, and holes are left out", "",
    nbd::per_client_threads, nbd::strand_pool)
{
    constexpr std::uint64_t size = 32 * mib;
    nbd::server<nbd::unix_transport, nbd::mem_backend, TestType> server{
        somewhere<nbd::unix_transport>()};
    const auto disk = server.exports().emplace("disk", {}, size);
    server.start();
    bytes shadow(size);
    for (const auto s : {style::structured, style::extended}) {
        chunk_client client{server.local_endpoint(), s};
        CHECK(client.go("disk").has(proto::transmission_flag::send_df));
        for (std::uint64_t at = mib; at < size; at += 5 * mib) {
            const auto data = pattern(300'000, static_cast<unsigned>(at));
            std::copy(data.begin(), data.end(), shadow.begin() + static_cast<std::ptrdiff_t>(at));
            REQUIRE(client.write(at, data) == error_value::none);
        }
        std::size_t holes = 0;
        for (const auto& [offset, length] : {std::pair{std::uint64_t{0}, size},
                                             {0, 1},
                                             {mib - 1, 2},
                                             {size - 1, 1},
                                             {mib + 1, 32768},
                                             {mib - 7, 32769},
                                             {3, 10 * mib},
                                             {mib, 100'000},
                                             {2 * mib, mib}}) {
            const auto reply = client.read(offset, length);
            CAPTURE(offset, length);
            REQUIRE(reply.error() == error_value::none);
            REQUIRE(equal(shadow, offset, reply.data(offset, length)));
            holes += reply.count(chunk::offset_hole);

            // DF: one content chunk, with its zeroes
            const auto whole = client.read(offset, length, cf::df);
            REQUIRE(whole.count(chunk::offset_data) == 1);
            REQUIRE(whole.count(chunk::offset_hole) == 0);
            REQUIRE(equal(shadow, offset, whole.data(offset, length)));
        }
        nbd::extent_list told;
        told.begin(size, 2);
        CHECK_FALSE(disk->extents(0, size, told));
        if (told.extents().size() > 1)  // the kernel reports holes of memory files
            CHECK(holes > 5);
        CHECK(client.read(0, 0).error() == error_value::none);
    }
}

TEMPLATE_TEST_CASE("P57: holes are left out for a backend that lends nothing, and ranges without "
                   "an extent are read",
                   "", nbd::per_client_threads, nbd::strand_pool)
{
    constexpr std::uint64_t size = 4 * mib;
    striped_disk disk{size};
    striped_disk laconic{size};
    laconic.tells_up_to = 200'000;
    bytes shadow(size);
    CHECK_FALSE(disk.read(0, shadow));
    nbd::server<nbd::unix_transport, striped_disk, TestType> server{
        somewhere<nbd::unix_transport>()};
    server.exports().add("disk", disk);
    server.exports().add("laconic", laconic);
    server.start();
    for (const auto* const name : {"disk", "laconic"}) {
        for (const auto s : {style::structured, style::extended}) {
            chunk_client client{server.local_endpoint(), s};
            client.go(name);
            for (const auto& [offset, length] : {std::pair{std::uint64_t{0}, size},
                                                 {0, mib},
                                                 {1, 65536},
                                                 {65535, 65538},
                                                 {65536, 65536},
                                                 {3, 3 * mib},
                                                 {size - 65536 - 1, 65537}}) {
                const auto reply = client.read(offset, length);
                CAPTURE(name, offset, length);
                REQUIRE(reply.error() == error_value::none);
                REQUIRE(equal(shadow, offset, reply.data(offset, length)));
            }
            CHECK(client.read(0, mib).count(chunk::offset_hole) != 0);
            CHECK(client.read(0, mib, cf::df).chunks.size() == 1);
        }
    }
}

TEMPLATE_TEST_CASE("P53, P57: an error is a chunk with a text, and with the offset if it is known",
                   "", nbd::per_client_threads, nbd::strand_pool)
{
    constexpr std::uint64_t size = 4 * mib;
    constexpr std::uint64_t bad = 2 * mib + 12345;
    striped_disk disk{size};
    disk.bad = bad;
    nbd::server<nbd::unix_transport, striped_disk, TestType> server{
        somewhere<nbd::unix_transport>()};
    server.exports().add("disk", disk);
    server.start();
    for (const auto s : {style::structured, style::extended}) {
        chunk_client client{server.local_endpoint(), s};
        client.go("disk");
        // short, long, and with holes that were left out
        for (const auto& [offset, length] :
             {std::pair{bad, std::uint64_t{1}}, {bad - 100, 4096}, {2 * mib, 65536}, {0, size}}) {
            const auto reply = client.read(offset, length);
            CAPTURE(offset, length);
            CHECK(reply.error() == error_value::eio);
            CHECK(reply.text() == "sector 4711 is bad");
            CHECK(reply.error_offset() == bad);
            CHECK(reply.chunks.size() == 1);
        }
        for (const auto& refused :
             {client.read(size, 1), client.read(size - 1, 2), client.read(~std::uint64_t{0}, 2),
              client.request(command::trim, 0, 512),
              client.request(static_cast<command>(99), 0, 0)}) {
            CHECK(refused.error() != error_value::none);
            CHECK(refused.chunks.size() == 1);
            CHECK(refused.last().type == chunk::error);
            CHECK_FALSE(refused.text().empty());
        }
        CHECK(client.read(0, 512, cf::no_hole).error() == error_value::einval);
        // and the stream is in step
        CHECK(client.read(0, 512).error() == error_value::none);
    }
}

TEMPLATE_TEST_CASE(
    "P56, P59: no chunk is longer than 32 MiB, and a longer READ with DF is EOVERFLOW", "",
    nbd::per_client_threads, nbd::strand_pool)
{
    constexpr std::uint64_t size = 80 * mib;
    nbd::server<nbd::unix_transport, nbd::mem_backend, TestType> server{
        somewhere<nbd::unix_transport>()};
    const auto disk = server.exports().emplace(
        "disk", {.blocks = nbd::block_sizes{.minimum = 1, .preferred = 4096, .maximum = 72 << 20}},
        size);
    const auto data = pattern(size);
    CHECK_FALSE(disk->write(0, data));
    server.start();
    for (const auto s : {style::structured, style::extended}) {
        chunk_client client{server.local_endpoint(), s};
        client.go("disk");
        const auto reply = client.read(mib + 1, 70 * mib);
        CHECK(reply.count(chunk::offset_data) == 3);
        CHECK(std::all_of(reply.chunks.begin(), reply.chunks.end(),
                          [](const auto& c) { return c.payload.size() <= 32 * mib + 8; }));
        CHECK(equal(data, mib + 1, reply.data(mib + 1, 70 * mib)));
        CHECK(client.read(0, 73 * mib).error() == error_value::einval);
        CHECK(client.read(0, 73 * mib, cf::df).error() == error_value::eoverflow);
        CHECK(client.read(0, 65536, cf::df).count(chunk::offset_data) == 1);
    }
}
