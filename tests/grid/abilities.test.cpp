// SPDX-License-Identifier: MIT
// What a backend withholds at run time: the flags that a client gets, and the answers to requests
// that need what is withheld.
#include "backend/file_support.hpp"
#include "catch.hpp"
#include "grid/program.hpp"
#include "grid/server_fixture.hpp"
#include <nbd/backend/file_backend.hpp>

#include <memory>
#include <optional>
#include <span>
#include <tuple>
#include <type_traits>

namespace {

using namespace grid;
using namespace nbd::protocol::transmission_flag;
using proto::command;
using proto::error_value;

constexpr std::uint64_t mib = 1 << 20;
constexpr std::uint16_t fua_flag = proto::command_flag::fua;

/// Has every ability, and withholds those that a test selects.
class modest_disk {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool multi_conn = true, fast_zero = true;

    explicit modest_disk(const nbd::abilities& now) : now_{now} {}
    [[nodiscard]] std::uint64_t size() const { return mib; }
    [[nodiscard]] nbd::abilities abilities() const { return now_; }
    void read(std::uint64_t, std::span<std::byte>) {}
    void write(std::uint64_t, std::span<const std::byte>, nbd::write_flags = {}) {}
    void flush() {}
    void trim(std::uint64_t, std::uint64_t) {}
    void write_zeroes(std::uint64_t, std::uint64_t, nbd::zero_flags) {}
    void cache(std::uint64_t, std::uint64_t) {}

private:
    const nbd::abilities& now_;
};
/// Makes a disk for each client.
struct modest_disks {
    const nbd::abilities& now;
    modest_disk open(const nbd::client&) { return modest_disk{now}; }
};

template <class Backend, class Policy>
struct served {
    using server_type = nbd::server<nbd::unix_transport, Backend, Policy>;

    std::optional<program> runs;
    std::unique_ptr<server_type> server;

    served()
    {
        if constexpr (std::is_same_v<Policy, nbd::on_executor<>>)
            server = std::make_unique<server_type>(runs.emplace().context,
                                                   somewhere<nbd::unix_transport>());
        else
            server = std::make_unique<server_type>(somewhere<nbd::unix_transport>());
        server->start();
    }
};

constexpr unsigned all = has_flags | send_flush | send_fua | send_trim | send_write_zeroes
    | send_fast_zero | send_cache | can_multi_conn;

}  // namespace

TEMPLATE_TEST_CASE("abilities: requests that need what a backend withholds are refused (P58, P87)",
                   "", (served<modest_disk, nbd::per_client_threads>),
                   (served<modest_disk, nbd::strand_pool>),
                   (served<modest_disk, nbd::on_executor<>>),
                   (served<modest_disks, nbd::strand_pool>))
{
    nbd::abilities now;
    TestType s;
    using backend_type = typename decltype(s.server)::element_type::export_set_type::backend_type;
    s.server->exports().add("disk", backend_type{now});
    auto before = connect(*s.server);
    CHECK(before.go("disk").flags == all);

    now = {.flush = false,
           .trim = false,
           .write_zeroes = false,
           .cache = false,
           .multi_conn = false,
           .rotational = true};
    auto client = connect(*s.server);
    CHECK(client.go("disk").flags == (has_flags | rotational));
    const bytes data(4096);
    CHECK(client.write(0, data) == error_value::none);
    CHECK(client.write(0, data, fua_flag) == error_value::einval);
    CHECK(client.request(command::flush, 0, 0) == error_value::einval);
    CHECK(client.request(command::trim, 0, 4096) == error_value::einval);
    CHECK(client.request(command::write_zeroes, 0, 4096) == error_value::einval);
    CHECK(client.request(command::cache, 0, 4096) == error_value::einval);

    now = {.read_only = true, .fast_zero = false};
    auto reader = connect(*s.server);
    CHECK(reader.go("disk").flags
          == (has_flags | read_only | send_flush | send_cache | can_multi_conn));
    CHECK(reader.write(0, data) == error_value::eperm);
    CHECK(reader.request(command::trim, 0, 4096) == error_value::eperm);
    CHECK(reader.request(command::write_zeroes, 0, 4096) == error_value::eperm);
    CHECK(reader.request(command::flush, 0, 0) == error_value::none);
    CHECK(reader.read(0, 4096));

    // A client keeps what it was told.
    CHECK(before.request(command::trim, 0, 4096) == error_value::none);
    CHECK(before.write(0, data, fua_flag) == error_value::none);
    CHECK(client.write(0, data) == error_value::none);
}

TEST_CASE("abilities: a file that is open for reading is a read-only export (P87)")
{
    const nbd_test::folder here;
    nbd_test::make_file(here / "disk", mib);
    served<nbd::file_backend, nbd::per_client_threads> s;
    s.server->exports().emplace("disk", {.allow_resize = true}, here / "disk",
                                nbd::file_settings{.lock = nbd::file_lock::off});
    s.server->exports().emplace("kept", {.allow_resize = true}, here / "disk",
                                nbd::file_settings{.read_only = true, .lock = nbd::file_lock::off});
    CHECK(connect(*s.server).go("disk").flags == (all | send_resize));
    auto client = connect(*s.server);
    CHECK(client.go("kept").flags
          == (has_flags | read_only | send_flush | send_cache | can_multi_conn));
    CHECK(client.write(0, bytes(4096)) == error_value::eperm);
    CHECK(client.request(command::trim, 0, 4096) == error_value::eperm);
    CHECK(client.read(0, 4096));
}
