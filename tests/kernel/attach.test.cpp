// SPDX-License-Identifier: MIT
// What attach() does before the kernel is asked: connections to a server, and the terms of an
// export. With a kernel: run.sh.
#include "catch.hpp"
#include <nbd/backend/mem_backend.hpp>
#include <nbd/kernel/attach.hpp>
#include <nbd/kernel/attached.hpp>
#include <nbd/kernel/error.hpp>
#include <nbd/protocol/terms.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <future>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

using namespace nbd::kernel;
using namespace std::chrono_literals;
namespace tf = nbd::protocol::transmission_flag;

namespace {

using server_type = nbd::server<nbd::unix_transport, nbd::mem_backend, nbd::per_client_threads>;

/// One client at a time; it does not promise multi_conn.
class single_disk {
public:
    [[nodiscard]] std::uint64_t size() const { return 8192; }
    void read(std::uint64_t, std::span<std::byte>) {}
};

/// A server that does not listen.
struct fixture {
    fixture()
    {
        server.exports().add("disk", nbd::mem_backend{1 << 20});
        server.start_without_listening();
    }
    server_type server{nbd::unix_transport::settings{}};
};

}  // namespace

static_assert(!std::is_copy_constructible_v<nbd::attached>);
static_assert(std::is_nothrow_move_assignable_v<nbd::attached>);

TEST_CASE_METHOD(fixture, "a device's connections tell the terms of the export")
{
    const nbd::attach_options options{.export_name = "disk", .connections = 3};
    connector connect{server, options};
    device_sockets sockets;
    REQUIRE_FALSE(connect(sockets));
    CHECK(sockets.kernels.size() == 3);
    CHECK(sockets.observed.size() == 3);
    CHECK(connect.terms().size == 1 << 20);
    CHECK(connect.terms().has(tf::send_flush));
    CHECK_FALSE(connect.terms().has(tf::read_only));
    CHECK(server.connections().size() == 3);

    // As the kernel does when it drops a connection.
    CHECK_FALSE(linux_system::hung_up(sockets.observed.front().get()));
    sockets.kernels.clear();
    CHECK(linux_system::hung_up(sockets.observed.front().get()));
}

TEST_CASE_METHOD(fixture, "a device's connections fail as the server says")
{
    device_sockets sockets;
    const auto error_of = [&](const nbd::attach_options& options) {
        return connector{server, options}(sockets);
    };
    CHECK(error_of({.export_name = "other"}) == nbd::errc::unknown_export);
    server.stop();
    CHECK(error_of({.export_name = "disk"}) == nbd::errc::not_running);
    CHECK(sockets.kernels.empty());
}

TEST_CASE("several connections need the promise multi_conn")
{
    nbd::server<nbd::unix_transport, single_disk, nbd::per_client_threads> server{
        nbd::unix_transport::settings{}};
    server.exports().add("disk", single_disk{});
    server.start_without_listening();
    device_sockets sockets;
    const nbd::attach_options one{.export_name = "disk"};
    const nbd::attach_options two{.export_name = "disk", .connections = 2};
    CHECK_FALSE(connector{server, one}(sockets));
    CHECK(connector{server, two}(sockets) == errc::one_connection_only);
}

TEST_CASE("a device needs its name to be right before anything else")
{
    std::error_code failed;
    CHECK_FALSE(nbd::attach(nbd::mem_backend{4096}, {.device = "/dev/sda"}, failed));
    CHECK(failed == errc::bad_device_name);
    CHECK(failed.category().name() == std::string{"nbd.kernel"});
    CHECK_THROWS_WITH(
        static_cast<void>(nbd::attach(nbd::mem_backend{4096}, {.device = "/dev/sda"})),
        "nbd: cannot attach /dev/sda: a device must be named /dev/nbdN");
}

TEST_CASE("an empty handle detaches nothing")
{
    nbd::attached none;
    CHECK_FALSE(none);
    CHECK_FALSE(none.detach());
    none = nbd::attached{};
}

TEST_CASE("seconds are rounded up")
{
    CHECK(whole_seconds(0ms) == 0);
    CHECK(whole_seconds(1ms) == 1);
    CHECK(whole_seconds(1000ms) == 1);
    CHECK(whole_seconds(1001ms) == 2);
}

TEST_CASE("a relay hands the latest size on, until it ends")
{
    size_relay sizes{1};
    sizes.set(2);
    sizes.set(3);
    CHECK(sizes.next(1) == 3U);
    auto waits = std::async(std::launch::async, [&] { return sizes.next(3); });
    sizes.set(3);  // no other size
    sizes.set(4);
    CHECK(waits.get() == 4U);
    auto ends = std::async(std::launch::async, [&] { return sizes.next(4); });
    sizes.end();
    CHECK_FALSE(ends.get());
    sizes.set(5);
    CHECK_FALSE(sizes.next(4));
}
