// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/error.hpp>
#include <nbd/protocol/error_value.hpp>

#include <boost/asio/error.hpp>
#include <boost/system/error_code.hpp>

#include <cerrno>
#include <future>
#include <ios>
#include <set>

using namespace nbd::protocol;

namespace {
error_value of(int error)
{
    const auto generic = to_error_value({error, std::generic_category()});
    CHECK(to_error_value({error, std::system_category()}) == generic);
    return generic;
}
}  // namespace

TEST_CASE("protocol/error_value: the value of each backend error on the wire (P86, P87)")
{
    CHECK(of(0) == error_value::none);
    CHECK(of(EPERM) == error_value::eperm);
    CHECK(of(EACCES) == error_value::eperm);
    CHECK(of(EROFS) == error_value::eperm);
    CHECK(of(EIO) == error_value::eio);
    CHECK(of(ENOMEM) == error_value::enomem);
    CHECK(of(EINVAL) == error_value::einval);
    CHECK(of(ENOSPC) == error_value::enospc);
    CHECK(of(EDQUOT) == error_value::enospc);
    CHECK(of(EFBIG) == error_value::enospc);
    CHECK(of(ESHUTDOWN) == error_value::eshutdown);
}

TEST_CASE("protocol/error_value: EOVERFLOW and ENOTSUP need the flag of their command (P87)")
{
    CHECK(of(EOVERFLOW) == error_value::einval);
    CHECK(of(ENOTSUP) == error_value::einval);
    CHECK(to_error_value({ENOTSUP, std::generic_category()}, command_flag::fast_zero)
          == error_value::enotsup);
    CHECK(to_error_value({EOPNOTSUPP, std::system_category()}, command_flag::fast_zero)
          == error_value::enotsup);
    CHECK(to_error_value(std::make_error_code(std::errc::not_supported), command_flag::fast_zero)
          == error_value::enotsup);
    CHECK(to_error_value(std::make_error_code(std::errc::operation_not_supported),
                         command_flag::fast_zero)
          == error_value::enotsup);
    CHECK(to_error_value({EIO, std::generic_category()}, command_flag::fast_zero)
          == error_value::eio);
    CHECK(to_error_value({ENOSPC, std::generic_category()}, command_flag::fast_zero)
          == error_value::enospc);
    CHECK(to_error_value({EOVERFLOW, std::generic_category()}, command_flag::fast_zero)
          == error_value::einval);
    CHECK(to_error_value({}, command_flag::fast_zero) == error_value::none);
    const std::error_code too_long{EOVERFLOW, std::generic_category()};
    CHECK(to_error_value(too_long, command_flag::df) == error_value::eoverflow);
    CHECK(to_error_value(too_long, command_flag::fua) == error_value::einval);
}

TEST_CASE("protocol/error_value: an error that has no value is EIO, also of networks and timers")
{
    for (const int error :
         {EINTR, ENOENT, EAGAIN, ENXIO, EBADF, ECANCELED, ETIMEDOUT, ETIME, 9999, -1})
        CHECK(of(error) == error_value::eio);
    for (const int error : {ECONNREFUSED, ECONNRESET, ECONNABORTED, EPIPE, EHOSTUNREACH, ENETDOWN,
                            ENETUNREACH, ENOTCONN, EADDRINUSE, EMSGSIZE, ENOBUFS, EPROTO})
        CHECK(of(error) == error_value::eio);
}

TEST_CASE("protocol/error_value: Asio's errors of sockets, timers and names are EIO")
{
    namespace error = boost::asio::error;
    const auto value = [](const boost::system::error_code& of_boost) {
        return to_error_value(std::error_code{of_boost});
    };
    for (const auto e : {error::connection_refused, error::connection_reset, error::timed_out,
                         error::operation_aborted, error::broken_pipe, error::bad_descriptor})
        CHECK(value(e) == error_value::eio);
    for (const auto e : {error::host_not_found, error::host_not_found_try_again})
        CHECK(value(e) == error_value::eio);
    for (const auto e : {error::service_not_found, error::socket_type_not_supported})
        CHECK(value(e) == error_value::eio);
    for (const auto e : {error::eof, error::not_found, error::already_open})
        CHECK(value(e) == error_value::eio);
    CHECK(value(error::no_memory) == error_value::enomem);
    CHECK(value(error::access_denied) == error_value::eperm);
}

TEST_CASE("protocol/error_value: every errno becomes one of the specification's values (P86)")
{
    const std::set<error_value> wire{error_value::eperm,  error_value::eio,
                                     error_value::enomem, error_value::einval,
                                     error_value::enospc, error_value::eshutdown};
    for (int error = 1; error < 200; ++error) {
        CAPTURE(error);
        CHECK(wire.contains(of(error)));
    }
}

TEST_CASE("protocol/error_value: an error of another category is EIO")
{
    CHECK(to_error_value(std::make_error_code(std::io_errc::stream)) == error_value::eio);
    CHECK(to_error_value(std::make_error_code(std::future_errc::no_state)) == error_value::eio);
    CHECK(to_error_value(nbd::errc::unknown_export) == error_value::eio);
    CHECK(to_error_value(
              std::error_code{boost::asio::error::make_error_code(boost::asio::error::eof)})
          == error_value::eio);
}

TEST_CASE("protocol/error_value: Boost's copies of the two categories count as the originals")
{
    namespace sys = boost::system;
    CHECK(to_error_value(sys::error_code{ENOSPC, sys::system_category()}) == error_value::enospc);
    CHECK(to_error_value(sys::error_code{EPERM, sys::generic_category()}) == error_value::eperm);
}

TEST_CASE("protocol/error_value: each value has its message")
{
    std::set<std::string_view> all;
    for (const auto e :
         {error_value::none, error_value::eperm, error_value::eio, error_value::enomem,
          error_value::einval, error_value::enospc, error_value::eoverflow, error_value::enotsup,
          error_value::eshutdown, static_cast<error_value>(4711)})
        CHECK(all.insert(message_of(e)).second);
}
