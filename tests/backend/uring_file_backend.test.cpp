// SPDX-License-Identifier: MIT
#include "backend/file_support.hpp"
#include "backend/uring_support.hpp"
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/backend/uring_file_backend.hpp>
#include <nbd/concepts/diagnosis.hpp>
#include <nbd/transmission/capabilities.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>

#include <memory>
#include <random>
#include <thread>
#include <vector>

using nbd::failure;
using nbd::uring_file_backend;
using namespace nbd_test;
using namespace nbd::protocol::transmission_flag;

static_assert(nbd::backend<uring_file_backend> && nbd::asynchronous<uring_file_backend>
              && nbd::diagnosis::backend_is_sound<uring_file_backend>());
static_assert(nbd::has_fua_write<uring_file_backend>);
static_assert(nbd::promises_fills_reads<uring_file_backend>);
static_assert(nbd::concurrency_of<uring_file_backend>() == nbd::concurrency::parallel);
static_assert(nbd::transmission::capabilities<uring_file_backend>()
              == (has_flags | send_flush | send_fua | send_trim | send_write_zeroes | send_fast_zero
                  | send_cache | can_multi_conn | send_resize));
static_assert(!std::is_copy_constructible_v<uring_file_backend>
              && std::is_move_constructible_v<uring_file_backend>
              && std::is_move_assignable_v<uring_file_backend>);

namespace {

/// Random writes and reads of its own part of the disk, compared with a model.
template <class Executor>
asio::awaitable<void, Executor> client(nbd::basic_uring_file_backend<Executor>& disk,
                                       std::uint64_t begin, std::size_t size, unsigned seed,
                                       int rounds, int& done)
{
    std::mt19937 random{seed};
    const std::size_t block = disk.block_sizes().minimum;
    bytes model(size);
    bytes memory(size + 64);
    for (int i = 0; i < rounds; ++i) {
        const auto length = random() % (size / block) * block + block;
        const auto at = random() % ((size - length) / block + 1) * block;
        // At any address, aligned or not.
        const auto part = std::span{memory}.subspan(random() % 64, length);
        const auto there = model.begin() + static_cast<std::ptrdiff_t>(at);
        failure failed;
        if (random() % 2 == 0) {
            const auto data = pattern(length, static_cast<unsigned>(random()));
            std::copy(data.begin(), data.end(), part.begin());
            std::copy(data.begin(), data.end(), there);
            failed = co_await disk.write(begin + at, part, {.fua = random() % 16 == 0});
        } else if (random() % 8 == 0) {
            std::fill_n(there, length, std::byte{0});
            failed = co_await disk.write_zeroes(begin + at, length,
                                                {.no_hole = random() % 2 == 0, .fast = false});
            if (failed == std::errc::not_supported) {  // as a session does
                std::fill(part.begin(), part.end(), std::byte{0});
                failed = co_await disk.write(begin + at, part, {});
            }
        } else {
            std::fill(part.begin(), part.end(), std::byte{0xee});
            failed = co_await disk.read(begin + at, part);
            if (!failed && !std::equal(part.begin(), part.end(), there))
                failed = failure{std::make_error_code(std::errc::illegal_byte_sequence)};
        }
        if (failed)
            throw std::system_error{failed.code, failed.text};
    }
    if (const auto failed = co_await disk.flush())
        throw std::system_error{failed.code, failed.text};
    done += rounds;
}
/// The completion handler of a task that is not awaited.
void fall_through(const std::exception_ptr& e)
{
    if (e)
        std::rethrow_exception(e);
}

}  // namespace

TEST_CASE("backend/uring_file_backend: many concurrent clients each read what they wrote")
{
    NBD_NEED_URING();
    const auto& [place, direct] = GENERATE(from_range(kinds()));
    CAPTURE(place, direct);
    if (!std::filesystem::is_directory(place))
        NBD_SKIP("there is no " + place);
    constexpr unsigned clients = 64;
    constexpr std::size_t each = 128 * kib;
    const folder here{place};
    auto disk = disk_of<uring_file_backend>(here, direct, clients * each);
    if (!disk)
        NBD_SKIP(place + " has no direct I/O");
    CHECK((disk->block_sizes().minimum > 1) == direct);
    asio::io_context context{1};
    int done = 0;
    for (unsigned i = 0; i < clients; ++i)
        asio::co_spawn(context, client(*disk, i * each, each, i, 25, done), fall_through);
    context.run();
    CHECK(done == clients * 25);
}

TEST_CASE("backend/uring_file_backend: serves several contexts at once, each with its thread")
{
    NBD_NEED_URING();
    const bool direct = GENERATE(false, true);
    constexpr unsigned clients = 16;
    constexpr std::size_t each = 64 * kib;
    const folder here;
    auto disk = disk_of<uring_file_backend>(here, direct, 4 * clients * each);
    if (!disk)
        NBD_SKIP("/tmp has no direct I/O");
    int done[4] = {};
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t)
        threads.emplace_back([&, t] {
            asio::io_context context{1};
            for (unsigned i = 0; i < clients; ++i)
                asio::co_spawn(context,
                               client(*disk, (t * clients + i) * each, each, i, 10, done[t]),
                               fall_through);
            context.run();
        });
    for (auto& t : threads)
        t.join();
    for (const int n : done)
        CHECK(n == clients * 10);
}

TEST_CASE("backend/uring_file_backend: serves strands of a context that several threads run")
{
    NBD_NEED_URING();
    using strand = asio::strand<executor>;
    constexpr unsigned clients = 16;
    constexpr std::size_t each = 64 * kib;
    const folder here;
    nbd::basic_uring_file_backend<strand> disk{here / "disk", {.create = clients * each}};
    asio::io_context context;
    int done[clients] = {};
    for (unsigned i = 0; i < clients; ++i)
        asio::co_spawn(asio::make_strand(context.get_executor()),
                       client(disk, i * each, each, i, 20, done[i]), fall_through);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
        threads.emplace_back([&] { context.run(); });
    for (auto& t : threads)
        t.join();
    for (const int n : done)
        CHECK(n == 20);
}

TEST_CASE("backend/uring_file_backend: holes, zeroes, extents, cache, size")
{
    NBD_NEED_URING();
    const auto place = GENERATE(as<std::string>{}, "/tmp", "/dev/shm");
    const folder here{place};
    const auto path = here / "disk";
    asio::io_context context{1};
    uring_file_backend disk{path, {.create = 4 * mib}};
    CHECK(disk.size() == 4 * mib);
    CHECK(stored(path) == 0);
    const auto all = pattern(4 * mib);
    bytes to(4 * mib);
    REQUIRE_FALSE(run(context, disk.write(0, all)));
    REQUIRE_FALSE(run(context, disk.flush()));
    REQUIRE_FALSE(run(context, disk.read(0, to)));
    CHECK((to == all));
    CHECK(stored(path) >= 4 * mib);

    CHECK_FALSE(run(context, disk.trim(mib, mib)));
    CHECK(stored(path) < 4 * mib);
    REQUIRE_FALSE(run(context, disk.read(mib, std::span{to}.first(mib))));
    CHECK(is_all(std::span{to}.first(mib)));
    nbd::extent_list parts;
    parts.begin(4 * mib, 100);
    REQUIRE_FALSE(run(context, disk.extents(0, 4 * mib, parts)));
    REQUIRE(parts.extents().size() == 3);
    CHECK(parts.extents()[1].length == mib);
    CHECK(parts.extents()[1].flags == 3);

    CHECK_FALSE(run(context, disk.write_zeroes(2 * mib, mib, {})));
    CHECK(stored(path) < 3 * mib);
    const auto kept = run(context, disk.write_zeroes(1 * mib, mib, {.no_hole = true}));
    CHECK((!kept || kept == std::errc::not_supported));  // some file systems cannot
    CHECK((!!kept || stored(path) >= 3 * mib));
    REQUIRE_FALSE(run(context, disk.read(mib, std::span{to}.first(2 * mib))));
    CHECK(is_all(std::span{to}.first(2 * mib)));
    CHECK_FALSE(run(context, disk.write_zeroes(0, 0, {})));

    CHECK_FALSE(run(context, disk.cache(0, 4 * mib)));
    CHECK_FALSE(disk.resize(mib));
    CHECK(disk.size() == mib);
    CHECK(std::filesystem::file_size(path) == mib);
    const auto moved = std::move(disk);
    CHECK(moved.size() == mib);
}

TEST_CASE("backend/uring_file_backend: data outside the page cache are read, too")
{
    NBD_NEED_URING();
    const folder here;
    asio::io_context context{1};
    uring_file_backend disk{here / "disk", {.create = 4 * mib}};
    const auto all = pattern(4 * mib);
    REQUIRE_FALSE(run(context, disk.write(0, all)));
    REQUIRE_FALSE(run(context, disk.flush()));
    const int file = ::open((here / "disk").c_str(), O_RDONLY);
    CHECK(::posix_fadvise(file, static_cast<off_t>(mib), 0, POSIX_FADV_DONTNEED) == 0);
    ::close(file);
    bytes to(4 * mib);
    CHECK_FALSE(run(context, disk.read(0, to)));  // a part of it is in the page cache
    CHECK((to == all));
}

TEST_CASE("backend/uring_file_backend: block devices")
{
    NBD_NEED_URING();
    const auto sector = GENERATE(512U, 4096U);
    const bool direct = GENERATE(false, true);
    const folder here;
    make_file(here / "image", 4 * mib);
    const auto device = loop_device::make(here / "image", sector);
    if (!device)
        NBD_SKIP("no loop devices here");
    asio::io_context context{1};
    uring_file_backend disk{device->path(), {.direct = direct}};
    CHECK(disk.size() == 4 * mib);
    const auto all = pattern(4 * mib);
    bytes to(4 * mib);
    REQUIRE_FALSE(run(context, disk.write(0, all)));
    REQUIRE_FALSE(run(context, disk.write(0, std::span{all}.first(4096), {.fua = true})));
    REQUIRE_FALSE(run(context, disk.flush()));
    REQUIRE_FALSE(run(context, disk.read(0, to)));
    CHECK((to == all));
    CHECK_FALSE(run(context, disk.write_zeroes(mib, mib, {})));
    REQUIRE_FALSE(run(context, disk.read(0, to)));
    CHECK(is_all(std::span{to}.subspan(mib, mib)));
    CHECK(to[mib - 1] == all[mib - 1]);
    CHECK(to[2 * mib] == all[2 * mib]);
    // A trim does not change parts of a sector, and write_zeroes refuses them.
    CHECK_FALSE(run(context, disk.trim(2 * mib + 1, sector)));
    CHECK_FALSE(run(context, disk.trim(3 * mib, 64 * kib)));
    REQUIRE_FALSE(run(context, disk.read(2 * mib, std::span{to}.first(mib))));
    CHECK(std::equal(to.begin(), to.begin() + mib, all.begin() + 2 * mib));
    CHECK(run(context, disk.write_zeroes(1, sector, {})) == std::errc::not_supported);
}

TEST_CASE("backend/uring_file_backend: a cancelled client's reads end before their memory does")
{
    NBD_NEED_URING();
    const folder here;
    auto disk = disk_of<uring_file_backend>(here, true, 64 * mib);
    if (!disk)
        NBD_SKIP("/tmp has no direct I/O");
    asio::io_context context{1};
    REQUIRE_FALSE(run(context, disk->write(0, pattern(64 * mib))));
    int good = 0;
    int called_off = 0;
    std::vector<asio::cancellation_signal> signals(64);
    for (std::size_t i = 0; i < signals.size(); ++i)
        asio::co_spawn(
            context,
            [&, i]() -> task<void> {
                bytes to(mib);  // freed as soon as the read is over
                const auto failed = co_await disk->read(i * mib, to);
                ++(failed == std::errc::operation_canceled ? called_off : good);
            },
            asio::bind_cancellation_slot(signals[i].slot(), asio::detached));
    // Cancels when all have started and none is submitted, and again when all are submitted.
    asio::post(context, [&] {
        for (std::size_t i = 0; i < 8; ++i)
            signals[i].emit(asio::cancellation_type::terminal);
        asio::post(context, [&] {
            for (auto& s : signals)
                s.emit(asio::cancellation_type::terminal);
        });
    });
    context.restart();
    context.run();
    CHECK(good + called_off == 64);
    CHECK(called_off >= 8);
}

TEST_CASE("backend/uring_file_backend: destroying a context with requests in flight")
{
    NBD_NEED_URING();
    const bool direct = GENERATE(false, true);
    const folder here;
    auto disk = disk_of<uring_file_backend>(here, direct, 64 * mib);
    if (!disk)
        NBD_SKIP("/tmp has no direct I/O");
    int frames = 0;
    for (const int turns : {1, 10, 30, 64, 65, 66, 67, 70}) {
        asio::io_context context{1};
        for (unsigned i = 0; i < 64; ++i)
            asio::co_spawn(
                context,
                [&, i]() -> task<void> {
                    struct frame {
                        int& count;
                        explicit frame(int& c) : count{c} { ++count; }
                        ~frame() { --count; }
                    } const alive{frames};
                    bytes memory(mib);
                    if (i % 3 == 0)
                        co_await disk->flush();
                    if (i % 2 == 0)
                        co_await disk->read(i * mib, memory);
                    else
                        co_await disk->write(i * mib, memory, {});
                    co_await disk->write_zeroes(i * mib, mib, {});
                },
                asio::detached);
        for (int t = 0; t < turns; ++t)
            context.poll_one();
    }
    CHECK(frames == 0);
}
