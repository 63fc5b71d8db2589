// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/perform.hpp"
#include <nbd/backend/callback_backend.hpp>
#include <nbd/concepts/diagnosis.hpp>
#include <nbd/transmission/execution.hpp>

#include <memory>
#include <vector>

using nbd::protocol::command;

TEST_CASE("backend/callback_backend: the callable gets every request and answers it")
{
    std::vector<command> seen;
    nbd::callback_backend disk{4096, [&](nbd::call& c) {
                                   seen.push_back(c.command());
                                   for (auto& b : c.space())
                                       b = std::byte{0x42};
                                   c.sent(c.space().size());
                               }};
    CHECK(disk.size() == 4096);
    std::vector<std::byte> to(3);
    CHECK_FALSE(nbd_test::read(disk, {.command = command::read, .length = 3}, to));
    CHECK(to == std::vector<std::byte>(3, std::byte{0x42}));
    for (const auto c :
         {command::write, command::flush, command::trim, command::cache, command::write_zeroes})
        CHECK_FALSE(nbd_test::perform(disk, {.command = c, .length = 512}, {}));
    CHECK(seen
          == std::vector{command::read, command::write, command::flush, command::trim,
                         command::cache, command::write_zeroes});
}

TEST_CASE("backend/callback_backend: what the callable throws or returns is the error")
{
    nbd::callback_backend throwing{1, [](nbd::call&) {
                                       throw std::system_error{
                                           std::make_error_code(std::errc::no_space_on_device)};
                                   }};
    CHECK(nbd_test::perform(throwing, {.command = command::flush}, {})
          == std::errc::no_space_on_device);
    nbd::callback_backend returning{
        1, [](nbd::call&) { return std::make_error_code(std::errc::io_error); }};
    CHECK(nbd_test::perform(returning, {.command = command::flush}, {}) == std::errc::io_error);
}

TEST_CASE("backend/callback_backend: calls are serialized by default; the backend can be moved")
{
    auto f = [own = std::make_unique<int>(7)](nbd::call&) { CHECK(*own == 7); };
    using serial = nbd::callback_backend<decltype(f)>;
    using parallel = nbd::callback_backend<decltype(f), nbd::concurrency::parallel>;
    static_assert(nbd::concurrency_of<serial>() == nbd::concurrency::serialize_all);
    static_assert(nbd::concurrency_of<parallel>() == nbd::concurrency::parallel);
    static_assert(nbd::diagnosis::backend_is_sound<serial>());
    static_assert(nbd::has_handle<serial> && !nbd::has_read<serial>
                  && !std::is_polymorphic_v<serial>);
    serial disk{1, std::move(f)};
    serial moved{std::move(disk)};
    CHECK(nbd_test::perform(moved, {.command = command::flush}, {}) == std::errc::io_error);
}
