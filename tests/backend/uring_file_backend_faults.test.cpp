// SPDX-License-Identifier: MIT
// Errors of files: a truncated file, a limit, missing operations of a file system, and a failing
// sync.
#include "backend/file_support.hpp"
#include "backend/uring_kernel.hpp"
#include "backend/uring_support.hpp"
#include "catch.hpp"
#include "support/bytes.hpp"
#include <nbd/backend/uring_file_backend.hpp>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>

#include <array>
#include <csignal>
#include <functional>
#include <optional>
#include <tuple>

#include <sys/resource.h>

using nbd::failure;
using nbd::uring_file_backend;
using nbd::uring_request;
using namespace nbd_test;

namespace {

/// Makes requests that fail if a test wants that. Each error is reported once, as a sync's is.
struct failing : uring_request {
    static inline bool sync_fails = false;
    static inline bool durable_write_fails = false;
    static inline int durable_writes_to = -1;  // another file
    static inline bool lacks_durable_writes = false;
    static inline bool syncs_first = false;                 // and ignores its result
    static inline std::function<uring_request()> waits_on;  // instead of a sync
    static inline int lacking_modes = 0;
    static inline int syncs = 0;
    static inline int allocations = 0;
    static void reset()
    {
        sync_fails = durable_write_fails = lacks_durable_writes = syncs_first = false;
        durable_writes_to = -1;
        waits_on = nullptr;
        lacking_modes = syncs = allocations = 0;
    }

    /// Fails with EBADF.
    static uring_request fails(uring_request r)
    {
        r.file = -1;
        return r;
    }
    static uring_request write(int file, std::uint64_t offset, std::span<const std::byte> from,
                               std::uint32_t flags)
    {
        if (syncs_first)
            std::ignore = ::fdatasync(file);
        if (flags != 0 && durable_writes_to >= 0)
            file = durable_writes_to;
        const auto asked = uring_request::write(file, offset, from, flags);
        if (flags != 0 && std::exchange(durable_write_fails, false))
            return fails(asked);
        if (flags != 0 && lacks_durable_writes)
            return uring_request::write(file, offset, from, 1U << 30);  // EOPNOTSUPP
        return asked;
    }
    static uring_request sync(int file)
    {
        ++syncs;
        if (syncs_first)
            std::ignore = ::fdatasync(file);
        const auto asked = uring_request::sync(file);
        if (std::exchange(sync_fails, false))
            return fails(asked);
        return waits_on ? waits_on() : asked;
    }
    static uring_request allocate(int file, int mode, std::uint64_t offset, std::uint64_t length)
    {
        ++allocations;
        if ((mode & lacking_modes) != 0)
            mode = 1 << 30;  // EOPNOTSUPP
        return uring_request::allocate(file, mode, offset, length);
    }
};
using failing_backend = nbd::basic_uring_file_backend<executor, failing>;

const bytes data = pattern(4096);

}  // namespace

TEST_CASE("backend/uring_file_backend: errors name the problem with the path or with the kernel")
{
    const folder here;
    uring_kernel::reset();
    uring_kernel::refuse_rings = 1;
    uring_kernel::ring_error = EPERM;
    CHECK_THROWS_WITH((uring_file_backend{here / "disk", {.create = mib}}),
                      Catch::Matchers::ContainsSubstring("the kernel refuses io_uring"));
    CHECK_FALSE(std::filesystem::exists(here / "disk"));
    NBD_NEED_URING();
    CHECK_THROWS_WITH(uring_file_backend{here / "none"},
                      Catch::Matchers::ContainsSubstring("none: expected"));
}

TEST_CASE("backend/uring_file_backend: a file that was truncated by another program reads as EIO")
{
    NBD_NEED_URING();
    const bool direct = GENERATE(false, true);
    const folder here;
    std::optional<uring_file_backend> disk;
    try {
        disk.emplace(here / "disk", nbd::file_settings{.direct = direct, .create = mib});
    } catch (const std::system_error& e) {
        NBD_SKIP(e.what());
    }
    asio::io_context context{1};
    REQUIRE_FALSE(run(context, disk->write(0, pattern(mib))));
    bytes to(64 * kib);
    for (const auto left : {8 * kib, 8 * kib + 100}) {
        std::filesystem::resize_file(here / "disk", left);
        const auto failed = run(context, disk->read(0, to));
        CHECK(failed == std::errc::io_error);
        if (!direct)
            CHECK(failed.offset == left);
        CHECK(run(context, disk->read(512 * kib, to)) == std::errc::io_error);
        CHECK_FALSE(run(context, disk->read(0, std::span{to}.first(8 * kib))));
    }
}

TEST_CASE("backend/uring_file_backend: a read-only disk refuses every change")
{
    NBD_NEED_URING();
    const folder here;
    make_file(here / "disk", mib);
    asio::io_context context{1};
    uring_file_backend disk{here / "disk", {.read_only = true}};
    bytes to(4096);
    const auto refused = std::errc::read_only_file_system;
    CHECK_FALSE(run(context, disk.read(0, to)));
    CHECK(run(context, disk.write(0, to)) == refused);
    CHECK(run(context, disk.write(0, to, {.fua = true})) == refused);
    CHECK(run(context, disk.trim(0, 4096)) == refused);
    CHECK(run(context, disk.write_zeroes(0, 4096, {})) == refused);
    CHECK(disk.resize(4096) == refused);
    CHECK_FALSE(run(context, disk.flush()));
}

TEST_CASE("backend/uring_file_backend: a write that exceeds a system limit fails")
{
    NBD_NEED_URING();
    const bool fua = GENERATE(false, true);
    const folder here;
    asio::io_context context{1};
    uring_file_backend disk{here / "disk", {.create = 4 * mib}};
    struct limited {
        ::rlimit before{};
        void (*handler)(int) = std::signal(SIGXFSZ, SIG_IGN);
        limited()
        {
            ::getrlimit(RLIMIT_FSIZE, &before);
            const ::rlimit some{2 * mib, before.rlim_max};
            ::setrlimit(RLIMIT_FSIZE, &some);
        }
        ~limited()
        {
            ::setrlimit(RLIMIT_FSIZE, &before);
            std::signal(SIGXFSZ, handler);
        }
    } const limit;
    CHECK_FALSE(run(context, disk.write(0, data, {.fua = fua})));
    const auto failed = run(context, disk.write(2 * mib - 4096, pattern(8192), {.fua = fua}));
    CHECK(failed == std::errc::file_too_large);
    CHECK_FALSE(run(context, disk.flush()));  // the write was refused, so no data are lost
    CHECK_FALSE(run(context, disk.write(0, data, {.fua = fua})));
}

TEST_CASE("backend/uring_file_backend: after a failed sync, every later flush fails")
{
    NBD_NEED_URING();
    failing::reset();
    const folder here;
    asio::io_context context{1};
    failing_backend disk{here / "disk", {.create = mib}};
    CHECK_FALSE(run(context, disk.write(0, data)));
    CHECK_FALSE(run(context, disk.flush()));
    failing::sync_fails = true;
    CHECK(run(context, disk.flush()) == std::errc::io_error);
    CHECK(failing::syncs == 2);
    for (const auto& again :
         {run(context, disk.flush()), run(context, disk.write(0, data, {.fua = true}))}) {
        CHECK(again == std::errc::io_error);
        CHECK_THAT(again.text, Catch::Matchers::StartsWith("an earlier flush failed"));
    }
    CHECK(failing::syncs == 2);
    bytes to(4096);
    CHECK_FALSE(run(context, disk.write(0, data)));
    CHECK_FALSE(run(context, disk.read(0, to)));
    CHECK((to == data));
    // After the file was opened again, flush succeeds.
    failing_backend again{here / "disk", {.lock = nbd::file_lock::off}};
    CHECK_FALSE(run(context, again.flush()));
}

TEST_CASE("backend/uring_file_backend: a failed sync also fails all other syncs in flight")
{
    NBD_NEED_URING();
    failing::reset();
    const folder here;
    asio::io_context context{1};
    failing_backend disk{here / "disk", {.create = mib}};
    failing::sync_fails = true;
    const pipe_pair others;  // the other syncs end after the first has failed
    std::array<char, 7> answers{};
    failing::waits_on = [&, n = 0U]() mutable { return others.read({&answers.at(n++), 1}); };
    int failed = 0;
    for (int i = 0; i < 8; ++i)
        asio::co_spawn(
            context,
            [&]() -> task<void> {
                const auto said = co_await disk.flush();
                if (said == std::errc::io_error && ++failed == 1)
                    others.say("7 times");
            },
            [](const std::exception_ptr&) {});
    context.run();
    failing::reset();
    CHECK(failed == 8);
}

TEST_CASE("backend/uring_file_backend: durable writes that fail or are not supported")
{
    NBD_NEED_URING();
    failing::reset();
    const folder here;
    asio::io_context context{1};
    failing_backend disk{here / "disk", {.create = mib}};
    SECTION("the durable write fails")
    {
        failing::durable_write_fails = true;
        CHECK(run(context, disk.write(0, data, {.fua = true})) == std::errc::io_error);
        CHECK(run(context, disk.flush()) == std::errc::io_error);
    }
    SECTION("no space for the durable write, but for the data")
    {
        failing::durable_writes_to = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
        CHECK(run(context, disk.write(0, data, {.fua = true})) == std::errc::no_space_on_device);
        ::close(failing::durable_writes_to);
        CHECK(run(context, disk.flush()) == std::errc::io_error);
    }
    SECTION("durable writes are not supported: a write and a flush replace them")
    {
        failing::lacks_durable_writes = true;
        CHECK_FALSE(run(context, disk.write(0, data, {.fua = true})));
        CHECK(failing::syncs == 1);
        bytes to(4096);
        CHECK_FALSE(run(context, disk.read(0, to)));
        CHECK((to == data));
        failing::sync_fails = true;
        CHECK(run(context, disk.write(0, data, {.fua = true})) == std::errc::io_error);
        CHECK(run(context, disk.flush()) == std::errc::io_error);
    }
}

TEST_CASE("backend/uring_file_backend: a durable write that fails after its cancellation is a "
          "failed flush")
{
    NBD_NEED_URING();
    failing::reset();
    const folder here;
    failing_backend disk{here / "disk", {.create = mib}};
    asio::io_context context{1};
    // Full, so that a write to it waits until its read end is closed.
    std::optional<pipe_pair> full{std::in_place};
    full->fill();
    failing::durable_writes_to = full->in();
    asio::cancellation_signal stop;
    int ended = 0;
    asio::co_spawn(
        context, [&]() -> task<void> { co_await disk.write(0, data, {.fua = true}); },
        asio::bind_cancellation_slot(stop.slot(), [&](const std::exception_ptr&) { ++ended; }));
    context.poll();
    REQUIRE(ended == 0);
    const auto old = std::signal(SIGPIPE, SIG_IGN);
    stop.emit(asio::cancellation_type::terminal);
    full->close_out();
    context.run();
    std::signal(SIGPIPE, old);
    CHECK(ended == 1);
    const auto said = run(context, disk.flush());
    CHECK(said == std::errc::io_error);
    CHECK_THAT(said.text, Catch::Matchers::ContainsSubstring("Broken pipe"));
}

TEST_CASE("backend/uring_file_backend: an operation that the kernel has not started is not a "
          "failed flush")
{
    NBD_NEED_URING();
    const folder here;
    uring_file_backend disk{here / "disk", {.create = mib}};
    const auto fails_by = [&](asio::io_context& context, const std::error_code& how,
                              const std::string& text) {
        const auto fails = [&](const failure& said) {
            CHECK(said.code == how);
            CHECK(said.text == text);
        };
        fails(run(context, disk.flush()));
        fails(run(context, disk.write(0, data, {.fua = true})));
        fails(run(context, disk.write(0, data)));
    };
    const auto nothing_is_lost = [&](asio::io_context& context) {
        CHECK_FALSE(run(context, disk.flush()));
        CHECK_FALSE(run(context, disk.write(0, data, {.fua = true})));
        CHECK_FALSE(run(context, disk.write(0, data)));
    };
    asio::io_context context{1};
    SECTION("no ring, no memory")
    {
        const auto error = GENERATE(EMFILE, ENOMEM);
        uring_kernel::reset();
        uring_kernel::refuse_rings = 3;
        uring_kernel::ring_error = error;
        if (error == EMFILE)
            fails_by(context, std::make_error_code(std::errc::io_error),
                     std::generic_category().message(EMFILE));
        else
            fails_by(context, {ENOMEM, std::system_category()}, "");
        nothing_is_lost(context);
    }
    SECTION("a broken ring")
    {
        nothing_is_lost(context);
        uring_kernel::reset();
        uring_kernel::refuse_submissions = 1;
        uring_kernel::submission_error = EBADFD;
        fails_by(context, std::make_error_code(std::errc::io_error),
                 std::generic_category().message(EBADFD));
        asio::io_context other{1};
        nothing_is_lost(other);
    }
    SECTION("a kernel that lacks memory for a while")
    {
        uring_kernel::reset();
        uring_kernel::refuse_submissions = 1;
        uring_kernel::submission_error = ENOMEM;
        nothing_is_lost(context);
    }
    uring_kernel::reset();
}

TEST_CASE("backend/uring_file_backend: an error that was reported to another sync counts")
{
    NBD_NEED_URING();
    const bool fua = GENERATE(false, true);
    const folder here;
    const auto small = small_place::make(here);
    if (!small)
        NBD_SKIP("no tmpfs can be mounted here");
    // A loop device that accepts every write, on a file system without space.
    make_file(here / "image", 8 * mib);
    const auto loop = loop_device::make(here / "image", 512);
    if (!loop)
        NBD_SKIP("no loop device can be made here");
    failing::reset();
    asio::io_context context{1};
    failing_backend disk{loop->path()};
    REQUIRE_FALSE(run(context, disk.write(0, bytes(4 * mib, std::byte{1}))));
    // Another sync gets the error and does not record it.
    failing::syncs_first = true;
    CHECK(run(context, fua ? disk.write(0, data, {.fua = true}) : disk.flush()));
    CHECK(run(context, disk.flush()) == std::errc::io_error);
    failing::reset();
}

TEST_CASE("backend/uring_file_backend: works on file systems without some operations")
{
    NBD_NEED_URING();
    failing::reset();
    const folder here;
    asio::io_context context{1};
    failing_backend disk{here / "disk", {.create = mib}};
    REQUIRE_FALSE(run(context, disk.write(0, data)));
    bytes to(4096);
    SECTION("no holes")
    {
        failing::lacking_modes = FALLOC_FL_PUNCH_HOLE;
        CHECK_FALSE(run(context, disk.trim(0, 4096)));  // advice
        CHECK_FALSE(run(context, disk.read(0, to)));
        CHECK((to == data));
        CHECK_FALSE(run(context, disk.trim(0, 4096)));
        CHECK(failing::allocations == 1);  // it is not tried again
        CHECK_FALSE(run(context, disk.write_zeroes(0, 4096, {})));
        CHECK_FALSE(run(context, disk.read(0, to)));
        CHECK(is_all(to));
        CHECK(failing::allocations == 2);
    }
    SECTION("neither holes nor zeroes")
    {
        failing::lacking_modes = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
        for (const bool no_hole : {false, true})
            CHECK(run(context, disk.write_zeroes(0, 4096, {.no_hole = no_hole}))
                  == std::errc::not_supported);
        CHECK(failing::allocations == 2);
        CHECK_FALSE(run(context, disk.read(0, to)));
        CHECK((to == data));
    }
}

TEST_CASE("backend/uring_file_backend: a device without holes still discards")
{
    NBD_NEED_URING();
    failing::reset();
    const folder here;
    make_file(here / "image", 8 * mib);
    const auto loop = loop_device::make(here / "image", 512);
    if (!loop)
        NBD_SKIP("no loop device can be made here");
    asio::io_context context{1};
    failing_backend disk{loop->path()};
    failing::lacking_modes = FALLOC_FL_PUNCH_HOLE;
    for (int i = 0; i < 2; ++i) {
        REQUIRE_FALSE(run(context, disk.write(0, bytes(mib, std::byte{1}))));
        REQUIRE_FALSE(run(context, disk.flush()));
        REQUIRE(stored(here / "image") >= mib);
        CHECK_FALSE(run(context, disk.trim(0, mib)));
        CHECK_FALSE(run(context, disk.flush()));
        CHECK(stored(here / "image") < mib);
    }
    CHECK(failing::allocations == 1);
    failing::reset();
}
