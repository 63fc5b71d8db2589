// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include "support/refused.hpp"
#include <nbd/acceptance/sockets.hpp>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

#include <system_error>
#include <utility>

#include <fcntl.h>

namespace asio = boost::asio;
using asio::ip::tcp;
using namespace nbd::acceptance;
using nbd::owned_descriptor;

TEST_CASE(
    "acceptance/sockets: an accepted descriptor is closed on exec; no waiting client is no error")
{
    asio::io_context context;
    tcp::acceptor listening{context, {asio::ip::make_address("127.0.0.1"), 0}};
    listening.native_non_blocking(true);
    std::error_code error;
    CHECK(accept_connection(listening.native_handle(), error) == -1);
    CHECK_FALSE(error);
    tcp::socket client{context};
    client.connect(listening.local_endpoint());
    const owned_descriptor accepted{accept_connection(listening.native_handle(), error)};
    REQUIRE(accepted.get() >= 0);
    CHECK((::fcntl(accepted.get(), F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(accept_connection(-1, error) == -1);
    CHECK(error == std::errc::bad_file_descriptor);
}

TEST_CASE("acceptance/sockets: where the system refuses accept4, accept replaces it")
{
    const int refusal = GENERATE(EPERM, ENOSYS, EOPNOTSUPP, EINVAL);
    asio::io_context context;
    tcp::acceptor listening{context, {asio::ip::make_address("127.0.0.1"), 0}};
    tcp::socket client{context};
    client.connect(listening.local_endpoint());
    CHECK(nbd_test::works_refusing({SYS_accept4}, refusal, [&] {
        std::error_code error;
        const owned_descriptor accepted{accept_connection(listening.native_handle(), error)};
        return accepted.get() >= 0 && !error
            && (::fcntl(accepted.get(), F_GETFD) & FD_CLOEXEC) != 0;
    }));
}

TEST_CASE("acceptance/sockets: a descriptor from the program is checked and has one owner")
{
    asio::io_context context;
    tcp::acceptor listening{context, {asio::ip::make_address("127.0.0.1"), 0}};
    tcp::endpoint address;
    CHECK_FALSE(check_socket(listening.native_handle(), true, address));
    CHECK(address == listening.local_endpoint());
    CHECK(check_socket(listening.native_handle(), false, address) == std::errc::invalid_argument);
    CHECK(check_socket(-1, true, address) == std::errc::bad_file_descriptor);
    CHECK(check_socket(0, true, address));

    const int fd = listening.release();
    {
        owned_descriptor first{fd};
        tcp::acceptor second{context};
        CHECK_FALSE(assign(second, std::move(first), address.protocol()));
        CHECK(first.get() == -1);
        CHECK(second.native_handle() == fd);
    }
    CHECK(::fcntl(fd, F_GETFD) == -1);
}
