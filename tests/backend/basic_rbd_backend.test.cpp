// SPDX-License-Identifier: MIT
#include "backend/fake_ceph.hpp"
#include "catch.hpp"
#include <nbd/backend/basic_rbd_backend.hpp>
#include <nbd/concepts/backend.hpp>
#include <nbd/concepts/offers.hpp>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace {

using backend = nbd::basic_rbd_backend<fake_ceph>;
static_assert(
    nbd::offers<backend, nbd::can::write, nbd::can::flush, nbd::can::trim, nbd::can::write_zeroes,
                nbd::can::extents, nbd::can::meta_contexts, nbd::can::refresh_size,
                nbd::can::block_sizes, nbd::can::abilities, nbd::can::parallel,
                nbd::can::multi_conn, nbd::can::fast_zero, nbd::can::fills_reads>);

const nbd::rbd_settings settings{.pool = "rbd", .image = "disk"};

/// Waits for a completion.
struct waiting : nbd::completion::receiver {
    std::promise<nbd::failure> promise;
    std::future<nbd::failure> outcome = promise.get_future();

    waiting()
    {
        complete = [](receiver& r, nbd::failure&& f) noexcept {
            static_cast<waiting&>(r).promise.set_value(std::move(f));
        };
    }
    nbd::completion done() { return nbd::completion{*this}; }
    [[nodiscard]] bool is_complete() const
    {
        return outcome.wait_for(std::chrono::seconds{0}) == std::future_status::ready;
    }
    int error() { return outcome.get().code.value(); }
};

/// The next test gets a new cluster.
struct clean {
    clean() = default;
    clean(const clean&) = delete;
    clean& operator=(const clean&) = delete;
    ~clean() { cluster = {}; }
};

/// An image of the cluster.
struct fixture {
    explicit fixture(const nbd::rbd_settings& s = settings) { disk.emplace(s); }
    static void end(std::size_t i, std::int64_t result)
    {
        auto call = std::move(cluster.begun.at(i));
        cluster.begun.erase(cluster.begun.begin() + static_cast<std::ptrdiff_t>(i));
        call.end(result);
    }
    int write(std::int64_t result)
    {
        waiting w;
        disk->async_write(0, from, w.done());
        if (!cluster.begun.empty())
            end(0, result);
        return w.error();
    }

    clean after;
    std::array<std::byte, 4096> to{};
    std::array<std::byte, 4096> from{};
    std::optional<backend> disk;
};

}  // namespace

TEST_CASE("backend/basic_rbd_backend: requests become calls of the image")
{
    fixture f;
    waiting r, w, s, t, z, n;
    f.disk->async_read(8192, f.to, r.done());
    f.disk->async_write(4096, f.from, w.done());
    f.disk->async_flush(s.done());
    f.disk->async_trim(0, 1 << 20, t.done());
    f.disk->async_write_zeroes(0, 512, {}, z.done());
    f.disk->async_write_zeroes(512, 512, {.no_hole = true}, n.done());
    CHECK(cluster.log
          == std::vector<std::string>{"lock", "read 8192 4096", "write 4096 4096", "flush",
                                      "discard 0 1048576", "zero 0 512", "zero 512 512 no_hole"});
    REQUIRE(cluster.begun.size() == 6);
    for (auto* one : {&r, &w, &s, &t, &z, &n})
        CHECK_FALSE(one->is_complete());

    // Each ends alone, and in any order.
    f.end(1, 0);
    CHECK(w.error() == 0);
    CHECK_FALSE(r.is_complete());
    f.end(0, 4096);
    CHECK(r.error() == 0);
    CHECK(f.to[4095] == std::byte{7});
    while (!cluster.begun.empty())
        f.end(0, 0);
    for (auto* one : {&s, &t, &z, &n})
        CHECK(one->error() == 0);
}

TEST_CASE("backend/basic_rbd_backend: zeroes that must be written are not fast")
{
    fixture f;
    waiting z;
    f.disk->async_write_zeroes(0, 512, {.no_hole = true, .fast = true}, z.done());
    CHECK(z.outcome.get() == std::errc::not_supported);
    CHECK(cluster.begun.empty());
}

TEST_CASE("backend/basic_rbd_backend: errors of Ceph are those of the request")
{
    fixture f;
    CHECK(f.write(-ENOSPC) == ENOSPC);
    CHECK(f.write(-EDQUOT) == EDQUOT);
    CHECK(f.write(-ETIMEDOUT) == ETIMEDOUT);
    CHECK(f.write(-EINVAL) == EIO);  // the image has shrunk
    CHECK(f.write(0) == 0);

    waiting r;
    f.disk->async_read(0, f.to, r.done());
    f.end(0, 100);  // the image ends there
    CHECK(r.error() == EIO);

    cluster.refuses_to_begin = ENOMEM;
    CHECK(f.write(0) == ENOMEM);
    cluster.refuses_to_begin = 0;
    CHECK(f.write(0) == 0);
}

TEST_CASE("backend/basic_rbd_backend: an image whose lock is lost is never written again")
{
    const int error = GENERATE(ESHUTDOWN, EROFS);
    fixture f;
    waiting other;
    f.disk->async_write(0, f.from, other.done());
    waiting first;
    f.disk->async_write(0, f.from, first.done());
    f.end(0, -error);
    CHECK(other.error() == ESHUTDOWN);
    f.end(0, -EIO);  // it was in flight
    CHECK(first.error() == ESHUTDOWN);

    // The lock may be free again: nothing is sent.
    const auto calls = cluster.log.size();
    CHECK(f.write(0) == ESHUTDOWN);
    waiting r, s, t, z, e;
    f.disk->async_read(0, f.to, r.done());
    f.disk->async_flush(s.done());
    f.disk->async_trim(0, 512, t.done());
    f.disk->async_write_zeroes(0, 512, {}, z.done());
    nbd::extent_list list;
    list.begin(512, 1);
    f.disk->async_extents(0, 512, list, e.done());
    for (auto* one : {&r, &s, &t, &z, &e})
        CHECK(one->error() == ESHUTDOWN);
    CHECK(cluster.log.size() == calls);
}

TEST_CASE("backend/basic_rbd_backend: without the lock for itself, it may write later")
{
    auto shared = settings;
    shared.exclusive = false;
    fixture f{shared};
    CHECK(cluster.log.empty());
    CHECK(f.write(-EROFS) == EROFS);
    CHECK(f.write(0) == 0);
    CHECK(f.write(-ESHUTDOWN) == ESHUTDOWN);
    CHECK(f.write(0) == ESHUTDOWN);
}

TEST_CASE("backend/basic_rbd_backend: an error of a read does not mean that the lock is lost")
{
    fixture f;
    waiting r;
    f.disk->async_read(0, f.to, r.done());
    f.end(0, -EROFS);
    CHECK(r.error() == EROFS);
    CHECK(f.write(0) == 0);
}

TEST_CASE("backend/basic_rbd_backend: an image that cannot be locked is not served")
{
    const clean after;
    cluster.exclusive_lock = false;
    CHECK_THROWS_AS(backend{settings}, std::system_error);
    CHECK(cluster.opened == 0);

    // Who only reads needs no lock.
    auto reading = settings;
    reading.read_only = true;
    backend disk{reading};
    CHECK(disk.abilities().read_only);
    CHECK(cluster.log == std::vector<std::string>{"lock", "close"});

    // A write that Ceph refuses says nothing about a lock.
    std::array<std::byte, 512> data{};
    waiting w;
    disk.async_write(0, data, w.done());
    std::exchange(cluster.begun, {}).at(0).end(-EROFS);
    CHECK(w.error() == EROFS);
    waiting r;
    disk.async_read(0, data, r.done());
    std::exchange(cluster.begun, {}).at(0).end(512);
    CHECK(r.error() == 0);
}

TEST_CASE("backend/basic_rbd_backend: a new size is noticed")
{
    fixture f;
    CHECK(f.disk->size() == 64 << 20);
    cluster.size = 128 << 20;
    CHECK(f.disk->refresh_size() == 64 << 20);
    cluster.changed();
    CHECK(f.disk->refresh_size() == 128 << 20);
    CHECK(f.disk->size() == 128 << 20);
}

TEST_CASE("backend/basic_rbd_backend: a size that changes before the watch is noticed")
{
    const clean after;
    cluster.size = 32 << 20;
    const backend disk{settings};
    CHECK(disk.size() == 32 << 20);
}

TEST_CASE("backend/basic_rbd_backend: the preferred block is what lies together in an object")
{
    const auto preferred = [](std::uint64_t unit) {
        const clean after;
        cluster.info.stripe_unit = unit;
        const backend disk{settings};
        CHECK(nbd::protocol::valid(disk.block_sizes()));
        return disk.block_sizes().preferred;
    };
    CHECK(preferred(4 << 20) == 4 << 20);
    CHECK(preferred(64 << 10) == 64 << 10);
    CHECK(preferred(512) == 4096);
    CHECK(preferred(std::uint64_t{1} << 33) == 32 << 20);
}

TEST_CASE("backend/basic_rbd_backend: extents are found by whole objects")
{
    fixture f;
    cluster.areas = {{4 << 20, 4 << 20}};
    nbd::extent_list list;
    list.begin(8 << 20, 100);
    waiting e;
    f.disk->async_extents((4 << 20) + 512, 8 << 20, list, e.done());
    CHECK(e.error() == 0);
    CHECK(cluster.log.back() == "find  4194816 8388608 whole");
    REQUIRE(list.extents().size() == 2);
    CHECK(list.extents()[0] == nbd::extent{(4 << 20) - 512, 0});
    CHECK(list.extents()[1] == nbd::extent{(4 << 20) + 512, 3});

    cluster.refuses_to_find = ENOENT;
    waiting failing;
    f.disk->async_extents(0, 8 << 20, list, failing.done());
    CHECK(failing.error() == ENOENT);
}

TEST_CASE("backend/basic_rbd_backend: a question is about a bounded number of objects")
{
    fixture f;
    cluster.fast_diff = false;
    nbd::extent_list list;
    list.begin(std::uint64_t{1} << 40, 100);
    waiting e;
    f.disk->async_extents(0, std::uint64_t{1} << 40, list, e.done());
    CHECK(e.error() == 0);
    CHECK(cluster.log.back() == "find  0 268435456");
    REQUIRE(list.extents().size() == 1);
    CHECK(list.extents()[0].length == 256 << 20);
}

TEST_CASE("backend/basic_rbd_backend: each snapshot has a meta context")
{
    const clean after;
    cluster.info.snapshots = {"monday", "a name that is too long for a small string"};
    backend disk{settings};
    REQUIRE(disk.meta_contexts().size() == 2);
    CHECK(disk.meta_contexts()[0].name == "nbd-cpp:rbd-snap-diff:monday");
    CHECK(disk.meta_contexts()[1].name
          == "nbd-cpp:rbd-snap-diff:a name that is too long for a small string");
    backend moved{std::move(disk)};
    CHECK(moved.meta_contexts()[0].name == "nbd-cpp:rbd-snap-diff:monday");

    cluster.areas = {{4096, 4096}, {8192, 4096, false}};
    nbd::extent_list list;
    list.begin(16384, 100);
    waiting e;
    moved.async_context_extents(0, 0, 16384, list, e.done());
    CHECK(e.error() == 0);
    CHECK(cluster.log.back() == "find monday 0 16384");  // exact, not whole objects
    const std::vector<nbd::extent> expected{{4096, 0}, {4096, 1}, {4096, 3}, {4096, 0}};
    CHECK(std::vector<nbd::extent>{list.extents().begin(), list.extents().end()} == expected);
}

TEST_CASE("backend/basic_rbd_backend: the watch ends before the image is closed")
{
    fixture f;
    f.write(0);
    f.disk.reset();
    CHECK(cluster.log == std::vector<std::string>{"lock", "write 0 4096", "unwatch", "close"});
    CHECK(cluster.opened == 0);
}

TEST_CASE("backend/basic_rbd_backend: questions that have begun are answered before the end")
{
    fixture f;
    nbd::extent_list lists[8];
    waiting asked[8];
    for (std::size_t i = 0; i != 8; ++i) {
        lists[i].begin(512, 1);
        f.disk->async_extents(0, 512, lists[i], asked[i].done());
    }
    f.disk.reset();
    for (auto& one : asked)
        CHECK(one.error() == 0);
}

TEST_CASE("backend/basic_rbd_backend: calls end on threads of their own, many at a time")
{
    fixture f;
    constexpr std::size_t many = 1000;
    std::vector<waiting> calls(many);
    for (auto& w : calls)
        f.disk->async_write(0, f.from, w.done());
    REQUIRE(cluster.begun.size() == many);
    auto begun = std::exchange(cluster.begun, {});
    std::thread other{[&] {
        for (std::size_t i = 0; i < many; i += 2)
            begun[i].end(0);
    }};
    for (std::size_t i = 1; i < many; i += 2)
        begun[i].end(-EIO);
    other.join();
    for (std::size_t i = 0; i != many; ++i)
        CHECK(calls[i].error() == (i % 2 == 0 ? 0 : EIO));
}
