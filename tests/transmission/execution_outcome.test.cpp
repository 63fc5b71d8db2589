// SPDX-License-Identifier: MIT
// Outcomes of backend calls: codes of several kinds, all exceptions, and handle(call&).
#include "catch.hpp"
#include "support/bytes.hpp"
#include "support/perform.hpp"
#include <nbd/transmission/execution.hpp>

#include <boost/system/error_code.hpp>

#include <functional>
#include <memory>
#include <new>
#include <stdexcept>

using namespace nbd_test;
using namespace nbd::protocol;
using nbd::outcome_of;
using nbd_test::perform;

TEST_CASE("transmission/execution: an error code is passed on, and void is success")
{
    CHECK_FALSE(outcome_of([] {}));
    CHECK_FALSE(outcome_of([] { return std::error_code{}; }));
    CHECK(outcome_of([] { return std::make_error_code(std::errc::no_space_on_device); })
          == std::errc::no_space_on_device);
    const auto boost_code = outcome_of([] {
        return boost::system::error_code{ENOSPC, boost::system::system_category()};
    });
    CHECK(boost_code == std::errc::no_space_on_device);
}

TEST_CASE("transmission/execution: every exception becomes an error code (B02)")
{
    const auto thrown = [](auto e) { return outcome_of([&] { throw e; }); };
    CHECK(thrown(std::system_error{ENOSPC, std::system_category()})
          == std::error_code{ENOSPC, std::system_category()});
    CHECK(thrown(std::system_error{nbd::protocol::request_bytes, std::iostream_category()})
              .code.value()
          == static_cast<int>(nbd::protocol::request_bytes));
    // An exception with the code "no error" is an error all the same.
    CHECK(thrown(std::system_error{std::error_code{}}) == std::errc::io_error);
    CHECK(thrown(std::bad_alloc{}) == std::errc::not_enough_memory);
    CHECK(thrown(std::runtime_error{"x"}) == std::errc::io_error);
    CHECK(thrown(42) == std::errc::io_error);
    CHECK(thrown(std::unique_ptr<int>{}.get()) == std::errc::io_error);
    const auto code = outcome_of([]() -> std::error_code { throw std::logic_error{"x"}; });
    CHECK(code == std::errc::io_error);
}

TEST_CASE("transmission/execution: every member may throw, and the exception is caught (B02)")
{
    struct throws {
        std::uint64_t size() const { return 1 << 20; }
        void read(std::uint64_t, std::span<std::byte>) { throw 1; }
        void write(std::uint64_t, std::span<const std::byte>) { throw std::bad_alloc{}; }
        void flush() { throw std::system_error{EROFS, std::system_category()}; }
        void trim(std::uint64_t, std::uint64_t) { throw std::runtime_error{"x"}; }
        void cache(std::uint64_t, std::uint64_t) { throw std::runtime_error{"x"}; }
        void write_zeroes(std::uint64_t, std::uint64_t, nbd::zero_flags)
        {
            throw std::system_error{std::make_error_code(std::errc::not_supported)};
        }
    } disk;
    const auto run = [&](command c, std::uint16_t flags = 0) {
        return perform(disk, {.flags = flags, .command = c, .length = 512}, bytes(512));
    };
    bytes to(512);
    CHECK(nbd_test::read(disk, {.length = 512}, to) == std::errc::io_error);
    CHECK(run(command::write) == std::errc::not_enough_memory);
    CHECK(run(command::flush) == std::errc::read_only_file_system);
    CHECK(run(command::trim) == std::errc::io_error);
    CHECK(run(command::cache) == std::errc::io_error);
    // "not supported" may be thrown as well as returned: the zeroes are written then
    CHECK(run(command::write_zeroes) == std::errc::not_enough_memory);
    CHECK(run(command::write_zeroes, command_flag::fast_zero) == std::errc::not_supported);
}

namespace {

struct handler {
    std::function<void(nbd::call&)> f;
    std::uint64_t size() const { return 1 << 20; }
    void handle(nbd::call& c) { f(c); }
};

struct read_result {
    std::error_code error;
    bytes data;
};
/// A READ of 8 bytes at 16.
read_result read_with(std::function<void(nbd::call&)> f)
{
    handler disk{std::move(f)};
    read_result r{{}, bytes(8, std::byte{0xee})};
    r.error = nbd_test::read(
                  disk, {.command = command::read, .cookie = 5, .offset = 16, .length = 8}, r.data)
                  .code;
    return r;
}
std::error_code write_with(std::function<void(nbd::call&)> f)
{
    handler disk{std::move(f)};
    return perform(disk, {.flags = 1, .command = command::write, .cookie = 5, .length = 4},
                   hex("01020304"))
        .code;
}
const auto failure = std::make_error_code(std::errc::no_space_on_device);

}  // namespace

TEST_CASE("transmission/execution: a handler sees the whole request")
{
    bool seen = false;
    CHECK_FALSE(write_with([&](nbd::call& c) {
        seen = c.command() == command::write && c.flags() == 1 && c.fua() && c.cookie() == 5
            && c.offset() == 0 && c.length() == 4 && shown(c.payload()) == "01020304"
            && c.space().empty();
        c.reply();
    }));
    CHECK(seen);
    const auto r = read_with([&](nbd::call& c) {
        seen = c.command() == command::read && c.flags() == 0 && !c.fua() && c.offset() == 16
            && c.length() == 8 && c.payload().empty() && c.space().size() == 8;
        c.send(bytes(8));
    });
    CHECK(seen);
    CHECK_FALSE(r.error);
}

TEST_CASE("transmission/execution: a handler that does not answer is EIO")
{
    CHECK(write_with([](nbd::call&) {}) == std::errc::io_error);
    CHECK(read_with([](nbd::call&) {}).error == std::errc::io_error);
}

TEST_CASE("transmission/execution: a handler's READ has the requested length, in any pieces")
{
    const auto whole = read_with([](nbd::call& c) { c.send(hex("0102030405060708")); });
    CHECK_FALSE(whole.error);
    CHECK(shown(whole.data) == "01020304 05060708");

    const auto pieces = read_with([](nbd::call& c) {
        c.reply();
        c.send(hex("01"));
        c.send({});
        c.send(hex("020304050607"));
        c.send(hex("08"));
    });
    CHECK_FALSE(pieces.error);
    CHECK(shown(pieces.data) == "01020304 05060708");

    const auto in_place = read_with([](nbd::call& c) {
        c.space()[0] = std::byte{1};
        c.sent(1);
        for (auto& b : c.space())
            b = std::byte{2};
        c.sent(7);
    });
    CHECK_FALSE(in_place.error);
    CHECK(shown(in_place.data) == "01020202 02020202");

    CHECK(read_with([](nbd::call& c) { c.reply(); }).error == std::errc::io_error);
    CHECK(read_with([](nbd::call& c) { c.send(bytes(7)); }).error == std::errc::io_error);
    CHECK(read_with([](nbd::call& c) { c.send(bytes(9)); }).error == std::errc::io_error);
    CHECK(read_with([](nbd::call& c) {
              c.send(bytes(8));
              c.send(bytes(1));
          }).error
          == std::errc::io_error);
    // More than the memory holds, claimed but not written.
    CHECK_FALSE(read_with([](nbd::call& c) { c.sent(8); }).error);
}

TEST_CASE("transmission/execution: a handler's first error stays, before and after data")
{
    CHECK(read_with([](nbd::call& c) { c.fail(failure); }).error == failure);
    CHECK(read_with([](nbd::call& c) {
              c.send(bytes(4));
              c.fail(failure);
          }).error
          == failure);
    CHECK(read_with([](nbd::call& c) {
              c.fail(failure);
              c.send(bytes(8));
              c.reply();
              c.fail(std::make_error_code(std::errc::io_error));
          }).error
          == failure);
    CHECK(write_with([](nbd::call& c) {
              c.reply();
              c.fail(failure);
          })
          == failure);
    CHECK_FALSE(write_with([](nbd::call& c) {
        c.fail({});
        c.reply();
    }));
}

TEST_CASE("transmission/execution: a handler's exception overrides its reply")
{
    CHECK(write_with([](nbd::call& c) {
              c.reply();
              throw std::system_error{failure};
          })
          == failure);
    CHECK(read_with([](nbd::call& c) {
              c.send(bytes(8));
              throw std::bad_alloc{};
          }).error
          == std::errc::not_enough_memory);
}

TEST_CASE("transmission/execution: bytes that a handler reports as sent but has not written are "
          "zero (N-15)")
{
    const auto r = read_with([](nbd::call& c) {
        c.sent(8);  // claims 8 bytes and has written none
    });
    CHECK_FALSE(r.error);
    CHECK(shown(r.data) == "00000000 00000000");
}

TEST_CASE("transmission/execution: a handler may return an error code instead")
{
    struct returning {
        std::uint64_t size() const { return 1; }
        std::error_code handle(nbd::call& c)
        {
            c.reply();
            return error;
        }
        std::error_code error;
    } disk;
    CHECK_FALSE(perform(disk, {.command = command::flush}, {}));
    disk.error = failure;
    CHECK(perform(disk, {.command = command::flush}, {}) == failure);
}
