// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "kernel/fake_system.hpp"
#include <nbd/kernel/device.hpp>
#include <nbd/kernel/error.hpp>
#include <nbd/protocol/terms.hpp>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/socket.h>

using namespace nbd::kernel;
using namespace std::chrono_literals;
namespace tf = nbd::protocol::transmission_flag;

namespace {

/// A kernel, and the server's ends of the connections to it.
struct fixture {
    fixture() { fake::present = &kernel; }
    ~fixture() { fake::present = nullptr; }
    fixture(const fixture&) = delete;
    fixture& operator=(const fixture&) = delete;

    std::error_code connect(device_sockets& to)
    {
        ++connects;
        to = {};
        for (std::size_t i = 0; i < connections; ++i) {
            int pair[2];
            if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
                return {errno, std::system_category()};
            to.kernels.emplace_back(pair[0]);
            to.observed.emplace_back(::fcntl(pair[1], F_DUPFD_CLOEXEC, 0));
            servers.emplace_back(pair[1]);
        }
        return {};
    }
    std::error_code attach(device<fake::system>& d, device_request wanted)
    {
        if (const auto failed = d.open())
            return failed;
        device_sockets sockets;
        if (const auto failed = connect(sockets))
            return failed;
        return d.attach(std::move(wanted), terms, std::move(sockets),
                        [this](device_sockets& to) { return connect(to); });
    }
    /// The server of a device dies.
    void die(std::uint32_t index)
    {
        auto& dead = kernel.disks[index].dead;
        dead.assign(dead.size(), true);
    }

    fake::kernel kernel;
    nbd::protocol::export_terms terms{
        .size = 1 << 20, .flags = tf::has_flags | tf::send_flush, .blocks = {}};
    std::size_t connections = 1;
    std::size_t connects = 0;
    std::vector<nbd::owned_descriptor> servers;
    device<fake::system> first;
    device<fake::system> second;
};

}  // namespace

TEST_CASE("only /dev/nbdN is a device's name")
{
    CHECK(index_of("/dev/nbd0") == 0U);
    CHECK(index_of("/dev/nbd117") == 117U);
    for (const auto* const name : {"", "/dev/nbd", "nbd0", "/dev/nbd0p1", "/dev/nbd-1",
                                   "/dev/nbd00", "/dev/nbd4294967296", "/dev/sda"})
        CHECK_FALSE(index_of(name));
}

TEST_CASE_METHOD(fixture, "a device gets the terms of its export")
{
    connections = 3;
    terms.size = (1 << 20) + 100;
    REQUIRE_FALSE(attach(first, {.index = 5, .timeout = 30, .dead_connection_timeout = 60}));
    CHECK(first.index() == 5);
    CHECK_FALSE(first.took_over());
    const auto& d = kernel.disks.at(5);
    CHECK(d.size == 1 << 20);  // whole blocks
    CHECK(d.block_size == 512);
    CHECK(d.timeout == 30);
    CHECK(d.dead_connection_timeout == 60);
    CHECK(d.flags == terms.flags);
    CHECK(d.sockets.size() == 3);
    CHECK(d.identifier.empty());
    CHECK(connects == 1);

    REQUIRE_FALSE(first.resize((2 << 20) + 511));
    CHECK(d.size == 2 << 20);
    CHECK_FALSE(first.detach());
    CHECK_FALSE(d.in_use());
}

TEST_CASE_METHOD(fixture, "any free device is taken, and waited for when there is none")
{
    for (std::uint32_t i = 0; i < 8; ++i)
        kernel.disks[i].bound = i != 3;
    REQUIRE_FALSE(attach(first, {}));
    CHECK(first.index() == 3);

    CHECK(attach(second, {}) == errc::no_free_device);
    CHECK(kernel.now >= device<fake::system>::settling);

    kernel.on_wait = [](fake::kernel& k) { k.disks[6] = {}; };
    const auto before = kernel.now;
    REQUIRE_FALSE(attach(second, {}));
    CHECK(second.index() == 6);
    CHECK(kernel.now - before == 50ms);
}

TEST_CASE_METHOD(fixture, "a device of another server is in use at once, or after the wait")
{
    REQUIRE_FALSE(attach(first, {.index = 0}));
    CHECK(attach(second, {.index = 0}) == errc::device_busy);
    CHECK(kernel.now == 0ms);
    CHECK(attach(second, {.index = 0, .wait_for_device = 7s}) == errc::device_busy);
    CHECK(kernel.now >= 7s);

    kernel.on_wait = [this](fake::kernel& k) {
        if (k.now > 8s)
            static_cast<void>(first.detach());
    };
    CHECK_FALSE(attach(second, {.index = 0, .wait_for_device = 7s}));
    CHECK(second.detach() == std::error_code{});
}

TEST_CASE_METHOD(fixture, "a device that a process has open for a moment is waited for")
{
    kernel.disks[0].openers = 1;
    kernel.on_wait = [](fake::kernel& k) {
        if (k.now > 1s)
            k.disks[0].openers = 0;
    };
    CHECK_FALSE(attach(first, {.index = 0}));
    CHECK(kernel.now > 1s);
}

TEST_CASE_METHOD(fixture, "a request to stop ends the waits")
{
    std::stop_source stop;
    kernel.on_wait = [&stop](fake::kernel& k) {
        if (k.now > 1s)
            stop.request_stop();
    };
    SECTION("for a device that is in use")
    {
        kernel.disks[0].bound = true;
        kernel.disks[0].owner = "90";
        CHECK(attach(first, {.index = 0, .wait_for_device = 90s, .stop = stop.get_token()})
              == std::errc::operation_canceled);
        CHECK(kernel.disks[0].bound);
    }
    SECTION("for a device that is not ready")
    {
        kernel.has_nodes = false;
        CHECK(attach(first, {.stop = stop.get_token()}) == std::errc::operation_canceled);
        CHECK_FALSE(kernel.disks[0].bound);
    }
    CHECK(kernel.now < 2s);
}

TEST_CASE_METHOD(fixture, "each failure has its own error")
{
    SECTION("no module")
    {
        kernel.has_module = false;
        CHECK(attach(first, {}) == errc::no_module);
    }
    SECTION("no permission")
    {
        kernel.permits = false;
        CHECK(attach(first, {}) == errc::not_permitted);
    }
    SECTION("no such device")
    {
        CHECK(attach(first, {.index = 99}) == errc::no_such_device);
    }
    SECTION("an old kernel does not keep the identifier")
    {
        kernel.knows_identifiers = false;
        CHECK(attach(first, {.identifier = "disk"}) == errc::no_identifiers);
        CHECK_FALSE(kernel.disks[0].bound);
    }
    SECTION("block sizes")
    {
        for (const std::uint64_t size : {1U, 256U, 513U, 8192U})
            CHECK(attach(first, {.block_size = size}) == errc::bad_block_size);
        terms.blocks.minimum = 1024;
        CHECK(attach(first, {.block_size = 512}) == errc::bad_block_size);
        CHECK(kernel.commands.empty());
    }
    SECTION("a maximum below a page")
    {
        terms.blocks = {.minimum = 1, .preferred = 512, .maximum = 2048};
        CHECK(attach(first, {}) == errc::maximum_too_small);
    }
    SECTION("the device's node does not appear")
    {
        kernel.has_nodes = false;
        CHECK(attach(first, {}) == errc::not_ready);
        CHECK(kernel.now >= 10s);
        CHECK_FALSE(kernel.disks[0].bound);
    }
    SECTION("the device is still open")
    {
        REQUIRE_FALSE(attach(first, {.index = 0}));
        kernel.disks[0].openers = 1;
        CHECK(first.detach() == errc::still_open);
        CHECK(kernel.now >= 10s);
    }
}

TEST_CASE_METHOD(fixture, "the kernel's requests are limited to the export's maximum")
{
    terms.blocks.maximum = 65536;
    REQUIRE_FALSE(attach(first, {}));
    CHECK(kernel.disks[0].max_sectors_kb == "64");
    terms.blocks.maximum = 2 << 20;
    REQUIRE_FALSE(attach(second, {}));
    CHECK(kernel.disks[1].max_sectors_kb == "1280");
}

TEST_CASE_METHOD(fixture, "the device of a server that has died is taken over")
{
    connections = 2;
    REQUIRE_FALSE(attach(first, {.index = 0, .timeout = 5, .identifier = "disk"}));
    kernel.disks[0].openers = 1;  // mounted
    die(0);
    kernel.process = "200";
    terms.size = 2 << 20;
    REQUIRE_FALSE(attach(second, {.index = 0, .timeout = 6, .identifier = "disk"}));
    CHECK(second.took_over());
    CHECK(kernel.disks[0].timeout == 6);
    CHECK(kernel.disks[0].size == 2 << 20);
    CHECK(kernel.disks[0].dead == std::vector<bool>{false, false});
    // The size comes after the connections.
    CHECK(kernel.commands
          == std::vector<std::uint8_t>{NBD_CMD_CONNECT, NBD_CMD_CONNECT, NBD_CMD_RECONFIGURE,
                                       NBD_CMD_RECONFIGURE});
}

TEST_CASE_METHOD(fixture, "a device that is taken over keeps its block size")
{
    REQUIRE_FALSE(attach(first, {.index = 0, .block_size = 4096, .identifier = "disk"}));
    die(0);
    terms.size = (2 << 20) + 512;
    REQUIRE_FALSE(attach(second, {.index = 0, .identifier = "disk"}));
    CHECK(kernel.disks[0].block_size == 4096);
    CHECK(kernel.disks[0].size == 2 << 20);
}

TEST_CASE_METHOD(fixture, "a time of zero is not sent")
{
    kernel.disks[0].timeout = 7;  // what a kernel has by itself
    REQUIRE_FALSE(attach(first, {.index = 0}));
    CHECK(kernel.disks[0].timeout == 7);
}

TEST_CASE_METHOD(fixture, "a server that lives, or has another identifier, keeps its device")
{
    REQUIRE_FALSE(attach(first, {.index = 0, .identifier = "disk"}));
    CHECK(attach(second, {.index = 0, .identifier = "disk"}) == errc::device_busy);
    CHECK(kernel.now >= device<fake::system>::settling);
    die(0);
    CHECK(attach(second, {.index = 0, .identifier = "other"}) == errc::device_busy);
    CHECK(attach(second, {.index = 0}) == errc::device_busy);
    CHECK(kernel.disks[0].dead == std::vector<bool>{true});

    // The kernel itself would give a device without an identifier to anybody.
    REQUIRE_FALSE(attach(first, {.index = 1}));
    die(1);
    CHECK(attach(second, {.index = 1, .identifier = "disk"}) == errc::device_busy);
    CHECK(kernel.disks[1].dead == std::vector<bool>{true});
}

TEST_CASE_METHOD(fixture, "a server that is just dying is waited for")
{
    REQUIRE_FALSE(attach(first, {.index = 0, .identifier = "disk"}));
    kernel.on_wait = [this](fake::kernel& k) {
        if (k.now > 1s)
            die(0);
    };
    REQUIRE_FALSE(attach(second, {.index = 0, .identifier = "disk"}));
    CHECK(second.took_over());
    CHECK(kernel.now > 1s);
}

TEST_CASE_METHOD(fixture, "a device that becomes free at its take-over is attached as any other")
{
    REQUIRE_FALSE(attach(first, {.index = 0, .identifier = "disk"}));
    die(0);
    kernel.on_request = [](fake::kernel& k, std::uint8_t command) {
        if (command == NBD_CMD_RECONFIGURE)
            k.disks[0] = {};
    };
    REQUIRE_FALSE(attach(second, {.index = 0, .identifier = "disk"}));
    CHECK_FALSE(second.took_over());
    CHECK(kernel.disks[0].sockets.size() == 1);
}

TEST_CASE_METHOD(fixture, "a device that has another server by now is left alone")
{
    REQUIRE_FALSE(attach(first, {.index = 0}));
    kernel.disks[0] = {};  // detached by another program
    kernel.process = "200";
    REQUIRE_FALSE(attach(second, {.index = 0}));
    CHECK_FALSE(first.detach());
    CHECK(kernel.disks[0].bound);
}
