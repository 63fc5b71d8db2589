// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/transport/vsock_transport.hpp>

#include <boost/asio/io_context.hpp>

#include <cstdint>
#include <string>
#include <system_error>
#include <utility>

using nbd::vsock_protocol;
using nbd::vsock_transport;
namespace asio = boost::asio;

namespace {

struct listener {
    explicit listener(vsock_transport::settings s) : transport{s} {}
    std::error_code listen() { return transport.listen(socket); }
    std::uint32_t port() const
    {
        ::sockaddr_vm at{};
        const auto local = socket.local_endpoint();
        std::memcpy(&at, local.data(), std::min(sizeof(at), local.size()));
        return at.svm_port;
    }

    asio::io_context context;
    vsock_protocol::acceptor socket{context};
    vsock_transport transport;
};

void require_vsock()
{
    listener any{{.port = 0}};
    if (const auto failed = any.listen())
        NBD_SKIP("this machine has no AF_VSOCK: " + failed.message());
}

}  // namespace

TEST_CASE("transport/vsock_transport: port 0 selects a free port, which is reported")
{
    require_vsock();
    listener l{{.port = 0}};
    REQUIRE_FALSE(l.listen());
    CHECK(l.port() != 0);
    CHECK(l.port() != vsock_transport::any);
    CHECK(l.socket.local_endpoint().protocol().family() == AF_VSOCK);
    const auto uri = l.transport.uri(l.socket.local_endpoint(), "a b");
    CHECK(uri.starts_with("nbd+vsock://"));
    CHECK(uri.ends_with(':' + std::to_string(l.port()) + "/a%20b"));
    // A client cannot connect to the CID `any`.
    CHECK(uri.find(std::to_string(vsock_transport::any)) == std::string::npos);
    CHECK((::fcntl(l.socket.native_handle(), F_GETFD) & FD_CLOEXEC) != 0);
}

TEST_CASE("transport/vsock_transport: a port in use, and a CID of another machine, are errors")
{
    require_vsock();
    listener first{{.port = 0}};
    REQUIRE_FALSE(first.listen());
    listener second{{.port = first.port()}};
    CHECK(second.listen() == std::errc::address_in_use);
    CHECK_FALSE(second.socket.is_open());
    listener foreign{{.cid = 4'000'000'000U, .port = 0}};
    CHECK(foreign.listen() == std::errc::address_not_available);
    CHECK_FALSE(foreign.socket.is_open());
}

TEST_CASE("transport/vsock_transport: texts")
{
    const vsock_transport guest{{.cid = 3}};
    CHECK(guest.uri(vsock_protocol::make_endpoint(3, 10809), "disk/1")
          == "nbd+vsock://3:10809/disk/1");
    CHECK(guest.where() == "vsock 3 port 10809");
    CHECK(vsock_transport{{.port = 7}}.where() == "vsock any port 7");
    CHECK(nbd::vsock_peer{2, 5}.text() == "vsock 2:5");
    CHECK(same_origin(nbd::vsock_peer{2, 5}, nbd::vsock_peer{2, 6}));
    CHECK_FALSE(same_origin(nbd::vsock_peer{2, 5}, nbd::vsock_peer{3, 5}));
}

TEST_CASE("transport/vsock_transport: a client of the same machine is accepted, and known")
{
    require_vsock();
    listener l{{.port = 0}};
    REQUIRE_FALSE(l.listen());
    vsock_protocol::socket client{l.context};
    boost::system::error_code failed;
    client.connect(vsock_protocol::make_endpoint(VMADDR_CID_LOCAL, l.port()), failed);
    if (failed)
        NBD_SKIP("this machine has no loopback for AF_VSOCK: " + failed.message());
    auto accepted = l.socket.accept();
    l.transport.prepare(accepted);
    CHECK(l.transport.peer(accepted).cid == VMADDR_CID_LOCAL);
}
