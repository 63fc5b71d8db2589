// SPDX-License-Identifier: MIT
// READs that leave out holes. How a job uses them is in job.test.cpp, whole replies are in
// grid/chunks.test.cpp.
#include "catch.hpp"
#include "support/bytes.hpp"
#include "support/lone_context.hpp"
#include <nbd/backend/sparse_memory.hpp>
#include <nbd/session/requests/reading.hpp>

#include <boost/asio/buffer.hpp>

#include <vector>

using namespace nbd_test;
using nbd::protocol::command;
using nbd::protocol::reply_style;

namespace {
struct replying : lone_context<nbd::silent> {
    explicit replying(reply_style style) : to{context, style, 64 << 10} {}
    nbd::session::replies<nbd::silent> to;
};
}  // namespace

namespace {
struct hollow {
    std::uint64_t size() const { return 0; }
    void read(std::uint64_t, std::span<std::byte>) {}
    void extents(std::uint64_t, std::uint64_t, nbd::extent_list&) {}
};
struct opened_hollow {
    using backend_type = hollow;
};
}  // namespace

TEST_CASE("session/requests/reading: the longest READ whose holes are left out fits in every style")
{
    using answer = nbd::session::reading<opened_hollow, nbd::silent, true>;
    constexpr auto pieces = nbd::transmission::read_plan<hollow>::most_extents;
    replying simple{reply_style::simple};
    CHECK_FALSE(answer::leaves_out_holes(nbd::protocol::request{.length = 1 << 20}, simple.to));
    for (const auto style : {reply_style::structured, reply_style::extended}) {
        replying r{style};
        nbd::protocol::request asked{.command = command::read, .length = std::uint64_t{32} << 10};
        CHECK(answer::leaves_out_holes(asked, r.to));
        asked.length = r.to.largest_read;
        CHECK(answer::leaves_out_holes(asked, r.to));
        CHECK(answer::will_fit(asked, r.to));
        nbd::sparse_memory memory{asked.length};
        // The maximum number of pieces, all of them data, and behind them a rest without an extent.
        // One, the first or the last, is so long that it is split as often as possible.
        for (const auto large : {std::size_t{0}, pieces}) {
            std::vector<nbd::extent> found;
            for (std::size_t i = 0; i < pieces; ++i)
                found.push_back({.length = i == large ? asked.length - (pieces << 12) : 4096});
            r.to.pieces(asked, found, [&](std::uint64_t at, std::size_t n) {
                return nbd::session::lent_data{std::span<const std::byte>{memory.bytes(at, n)}};
            });
            CHECK(boost::asio::buffer_size(r.to.out().pieces()) > asked.length);
            r.to.out().clear();
        }
    }
}
