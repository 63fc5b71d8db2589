// SPDX-License-Identifier: MIT
// WRITE_ZEROES that is emulated by writes: in bounded pieces, while other clients are served. And
// the promise multi_conn.
#include "catch.hpp"
#include "grid/chunk_client.hpp"
#include "grid/server_fixture.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>

namespace {

using namespace grid;
using proto::command;
using proto::error_value;
using style = proto::reply_style;
using std::chrono::steady_clock;
namespace cf = proto::command_flag;
namespace tf = proto::transmission_flag;

constexpr std::uint64_t mib = 1 << 20;

/// A huge disk without write_zeroes, which discards and counts writes.
struct abyss {
    struct counts {
        std::mutex mutex;
        std::condition_variable more;
        std::size_t writes = 0;
        std::uint64_t written = 0;
        std::size_t longest = 0;
        bool kept_to_blocks = true;
        bool all_zero = true;
        bool in_order = true;
        std::uint64_t next = 0;
        std::size_t flushes = 0;

        bool wait_for_writes(std::size_t n)
        {
            std::unique_lock lock{mutex};
            return more.wait_for(lock, std::chrono::seconds{20}, [&] { return writes >= n; });
        }
        std::uint64_t written_by_now()
        {
            const std::lock_guard lock{mutex};
            return written;
        }
        void begin_at(std::uint64_t offset)
        {
            const std::lock_guard lock{mutex};
            written = flushes = 0;
            next = offset;
        }
    };
    std::shared_ptr<counts> seen = std::make_shared<counts>();
    std::uint64_t bytes_ = std::uint64_t{1} << 50;

    std::uint64_t size() const { return bytes_; }
    void read(std::uint64_t, std::span<std::byte>) {}
    void write(std::uint64_t offset, std::span<const std::byte> from)
    {
        const std::lock_guard lock{seen->mutex};
        ++seen->writes;
        seen->longest = std::max(seen->longest, from.size());
        seen->kept_to_blocks &= offset % 512 == 0 && from.size() % 512 == 0;
        seen->all_zero &= from.front() == std::byte{0} && from.back() == std::byte{0};
        seen->in_order &= offset == seen->next;
        seen->next = offset + from.size();
        seen->written += from.size();
        seen->more.notify_all();
    }
    void flush()
    {
        const std::lock_guard lock{seen->mutex};
        ++seen->flushes;
    }
};

/// A huge disk that zeroes and trims at once, and counts the calls and their lengths.
struct vast_counts {
    std::mutex mutex;
    std::condition_variable more;
    std::uint64_t calls = 0;
    std::uint64_t longest = 0;

    void add(std::uint64_t length)
    {
        const std::lock_guard lock{mutex};
        ++calls;
        longest = std::max(longest, length);
        more.notify_all();
    }
    bool wait_for(std::uint64_t n)
    {
        std::unique_lock lock{mutex};
        return more.wait_for(lock, std::chrono::seconds{20}, [&] { return calls >= n; });
    }
};
struct vast {
    std::shared_ptr<vast_counts> seen = std::make_shared<vast_counts>();

    std::uint64_t size() const { return std::uint64_t{1} << 60; }
    void read(std::uint64_t, std::span<std::byte>) {}
    void write(std::uint64_t, std::span<const std::byte>) {}
    void trim(std::uint64_t, std::uint64_t length) { seen->add(length); }
    void write_zeroes(std::uint64_t, std::uint64_t length, nbd::zero_flags) { seen->add(length); }
    void cache(std::uint64_t, std::uint64_t length) { seen->add(length); }
};
struct vast_blocking : vast {
    static constexpr bool blocks = true;
};
struct vast_awaited {
    using executor = boost::asio::io_context::executor_type;
    using awaited = boost::asio::awaitable<void, executor>;
    std::shared_ptr<vast_counts> seen = std::make_shared<vast_counts>();

    std::uint64_t size() const { return std::uint64_t{1} << 60; }
    awaited read(std::uint64_t, std::span<std::byte>) { co_return; }
    awaited write(std::uint64_t, std::span<const std::byte>) { co_return; }
    awaited trim(std::uint64_t, std::uint64_t length) { return add(length); }
    awaited write_zeroes(std::uint64_t, std::uint64_t length, nbd::zero_flags)
    {
        return add(length);
    }
    awaited cache(std::uint64_t, std::uint64_t length) { return add(length); }

private:
    awaited add(std::uint64_t length)
    {
        seen->add(length);
        co_return;
    }
};

/// Keeps writes in memory until a flush, and promises that a flush covers all connections.
struct caching_disk {
    static constexpr bool multi_conn = true;
    struct content {
        std::mutex mutex;
        bytes cached = bytes(mib);
        bytes durable = bytes(mib);

        bytes safe()
        {
            const std::lock_guard lock{mutex};
            return durable;
        }
    };
    std::shared_ptr<content> kept = std::make_shared<content>();

    std::uint64_t size() const { return mib; }
    void read(std::uint64_t offset, std::span<std::byte> to)
    {
        const std::lock_guard lock{kept->mutex};
        std::copy_n(kept->cached.begin() + static_cast<std::ptrdiff_t>(offset), to.size(),
                    to.begin());
    }
    void write(std::uint64_t offset, std::span<const std::byte> from)
    {
        const std::lock_guard lock{kept->mutex};
        std::copy(from.begin(), from.end(),
                  kept->cached.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    void flush()
    {
        const std::lock_guard lock{kept->mutex};
        kept->durable = kept->cached;
    }
};

/// A policy with the least number of threads.
template <class P>
P narrow()
{
    if constexpr (std::is_same_v<P, nbd::strand_pool>)
        return P{1};
    else
        return P{};
}

template <class P>
using abyss_server = nbd::server<nbd::unix_transport, abyss, P>;

}  // namespace

TEMPLATE_TEST_CASE("P56, P65: zeroes are written in pieces that keep to the block sizes", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    abyss disk;
    abyss_server<TestType> server{somewhere<nbd::unix_transport>(), {}, narrow<TestType>()};
    // a maximum payload that is not a multiple of the minimum block
    server.exports().add("disk", disk, {.blocks = nbd::block_sizes{512, 4096, 10'000}});
    server.start();
    for (const auto s : {style::structured, style::extended}) {
        chunk_client client{server.local_endpoint(), s};
        client.go("disk");
        for (const std::uint64_t length : {std::uint64_t{512}, 20 * mib, 8 * mib, 8 * mib + 512}) {
            disk.seen->begin_at(4096);
            CHECK(client.request(command::write_zeroes, 4096, length, cf::fua | cf::no_hole).error()
                  == error_value::none);
            const std::lock_guard lock{disk.seen->mutex};
            CHECK(disk.seen->written == length);
            CHECK(disk.seen->flushes == 1);
        }
        CHECK(client.request(command::write_zeroes, 0, 512, cf::fast_zero).error()
              == error_value::einval);  // FAST_ZERO was not offered
        CHECK(client.request(command::write_zeroes, 1, 512).error() == error_value::einval);
    }
    const std::lock_guard lock{disk.seen->mutex};
    CHECK(disk.seen->longest == 9728);
    CHECK(disk.seen->kept_to_blocks);
    CHECK(disk.seen->all_zero);
    CHECK(disk.seen->in_order);
}

TEMPLATE_TEST_CASE(
    "P65: other clients are served while zeroes are written, and stop ends the writing", "",
    nbd::per_client_threads, nbd::strand_pool)
{
    abyss disk;
    abyss_server<TestType> server{somewhere<nbd::unix_transport>(), impatient(),
                                  narrow<TestType>()};
    server.exports().add("disk", disk);
    server.start();
    chunk_client client{server.local_endpoint(), style::extended};
    client.go("disk");
    client.send_request(command::write_zeroes, 0, disk.bytes_);
    REQUIRE(disk.seen->wait_for_writes(1000));

    chunk_client other{server.local_endpoint(), style::structured};
    other.go("disk");
    for (int i = 0; i < 20; ++i)
        REQUIRE(other.read(0, 512).error() == error_value::none);
    CHECK(disk.seen->written_by_now() < disk.bytes_);

    const auto begun = steady_clock::now();
    server.stop();
    CHECK(steady_clock::now() - begun < std::chrono::seconds{5});
    CHECK(disk.seen->written_by_now() < disk.bytes_);
    const auto reply = client.receive_whole();
    CHECK(reply.error() == error_value::eshutdown);
    CHECK(client.raw.closed());
}

TEMPLATE_TEST_CASE("P65: the removal of the export ends the writing of zeroes", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    abyss disk;
    abyss_server<TestType> server{somewhere<nbd::unix_transport>(), impatient(),
                                  narrow<TestType>()};
    server.exports().add("disk", disk);
    server.start();
    chunk_client client{server.local_endpoint(), style::extended};
    client.go("disk");
    client.send_request(command::write_zeroes, 0, disk.bytes_);
    REQUIRE(disk.seen->wait_for_writes(1000));
    CHECK(server.exports().remove("disk"));
    CHECK(client.receive_whole().error() == error_value::eshutdown);
}

TEMPLATE_TEST_CASE("P65: a long WRITE_ZEROES, TRIM or CACHE is many calls, and stop ends it", "",
                   (std::pair<vast, nbd::per_client_threads>), (std::pair<vast, nbd::strand_pool>),
                   (std::pair<vast_blocking, nbd::strand_pool>),
                   (std::pair<vast_awaited, nbd::per_client_threads>),
                   (std::pair<vast_awaited, nbd::strand_pool>))
{
    using disk_type = typename TestType::first_type;
    using policy = typename TestType::second_type;
    const auto c = GENERATE(command::write_zeroes, command::trim, command::cache);
    disk_type disk;
    nbd::server<nbd::unix_transport, disk_type, policy> server{somewhere<nbd::unix_transport>(),
                                                               impatient(), narrow<policy>()};
    server.exports().add("disk", disk);
    server.start();
    chunk_client client{server.local_endpoint(), style::extended};
    client.go("disk");
    client.send_request(c, 0, disk.size());
    REQUIRE(disk.seen->wait_for(1000));

    chunk_client other{server.local_endpoint(), style::structured};
    other.go("disk");
    for (int i = 0; i < 20; ++i)
        REQUIRE(other.read(0, 512).error() == error_value::none);

    server.stop();
    CHECK(client.receive_whole().error() == error_value::eshutdown);
    CHECK(client.raw.closed());
    CHECK(disk.seen->longest == 256 * mib);
    CHECK(disk.seen->calls < disk.size() / (256 * mib));
}

TEMPLATE_TEST_CASE("P65: zeroes that keep their pages respect the disk's memory limit", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    nbd::server<nbd::unix_transport, nbd::mem_backend, TestType> server{
        somewhere<nbd::unix_transport>(), {}, narrow<TestType>()};
    constexpr std::uint64_t size = std::uint64_t{2} << 30;
    server.exports().add("disk", nbd::mem_backend{size, {.memory_limit = 16 * mib}});
    server.start();
    chunk_client client{server.local_endpoint(), style::extended};
    client.go("disk");
    CHECK(client.request(command::write_zeroes, 0, size, cf::no_hole).error()
          == error_value::enospc);
    CHECK(client.request(command::write_zeroes, 0, 16 * mib, cf::no_hole).error()
          == error_value::none);
    CHECK(client.write(16 * mib, bytes(512)) == error_value::enospc);
    CHECK(client.request(command::trim, 0, size).error() == error_value::none);
    CHECK(client.write(16 * mib, bytes(512)) == error_value::none);
}

TEMPLATE_TEST_CASE("P46, P62: a FLUSH covers the acknowledged writes of other connections", "",
                   nbd::per_client_threads, nbd::strand_pool)
{
    const caching_disk disk;
    nbd::server<nbd::unix_transport, caching_disk, TestType> server{
        somewhere<nbd::unix_transport>()};
    server.exports().add("disk", disk);
    server.exports().add("withheld", disk, {.withhold = tf::can_multi_conn});
    server.start();
    auto one = connect(server);
    auto two = connect(server);
    auto three = connect(server);
    CHECK(one.go("disk").has(tf::can_multi_conn));
    CHECK(two.go("disk").has(tf::can_multi_conn));
    CHECK_FALSE(three.go("withheld").has(tf::can_multi_conn));

    auto data = pattern(mib);
    for (std::size_t at = 0; at < mib; at += 65536)
        REQUIRE((at / 65536 % 2 == 0 ? one : two).write(at, std::span{data}.subspan(at, 65536))
                == error_value::none);
    CHECK(disk.kept->safe() == bytes(mib));
    CHECK(two.request(command::flush, 0, 0) == error_value::none);
    CHECK(disk.kept->safe() == data);

    // one client reads what the other has written, before and after it is durable
    REQUIRE(one.write(0, bytes(512)) == error_value::none);
    CHECK(two.read(0, 512) == bytes(512));
    CHECK(disk.kept->safe() == data);
    REQUIRE(two.write(512, bytes(512), cf::fua) == error_value::none);
    std::fill_n(data.begin(), 1024, std::byte{0});
    CHECK(disk.kept->safe() == data);
}
