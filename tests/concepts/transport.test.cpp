// SPDX-License-Identifier: MIT
#include "catch.hpp"
#include <nbd/concepts/transport.hpp>
#include <nbd/transport/tcp_transport.hpp>
#include <nbd/transport/unix_transport.hpp>

#include <chrono>

static_assert(nbd::transport<nbd::unix_transport> && nbd::transport<nbd::tcp_transport>);
static_assert(!nbd::transport<boost::asio::ip::tcp>);

namespace {
struct least {
    struct settings {};
    explicit least(settings) {}
    using protocol_type = boost::asio::ip::tcp;
    using peer_type = nbd::tcp_peer;
    template <class Acceptor>
    std::error_code listen(Acceptor&)
    {
        return {};
    }
    template <class Socket>
    void prepare(Socket&) noexcept
    {
    }
    template <class Socket>
    peer_type peer(Socket&) const
    {
        return {};
    }
    std::string uri(const protocol_type::endpoint&, std::string_view) const { return {}; }
    std::string where() const { return {}; }
    void close() noexcept {}
};
struct throwing_close : least {
    using least::least;
    void close() {}
};
struct plain_peer {
    std::string text() const { return {}; }
    friend bool same_origin(const plain_peer&, const plain_peer&) { return true; }
};
struct wrong_peer : plain_peer {
    void describe(nbd::client&) {}
};
template <class Peer>
struct with_peer : least {
    using least::least;
    using peer_type = Peer;
    template <class Socket>
    peer_type peer(Socket&) const
    {
        return {};
    }
};
struct no_settings {
    using protocol_type = boost::asio::ip::tcp;
    std::string where() const { return {}; }
    std::string uri(const protocol_type::endpoint&, std::string_view) const { return {}; }
    void close() noexcept {}
};
static_assert(nbd::transport<least>);
static_assert(nbd::transport<with_peer<plain_peer>>);
static_assert(!nbd::transport<with_peer<wrong_peer>>);
static_assert(!nbd::transport<throwing_close> && !nbd::transport<no_settings>);
}  // namespace

TEST_CASE("concepts/transport: a transport is made from its settings")
{
    STATIC_REQUIRE(std::is_constructible_v<nbd::unix_transport, nbd::unix_transport::settings>);
    STATIC_REQUIRE(std::is_constructible_v<nbd::tcp_transport, nbd::tcp_transport::settings>);
    CHECK(nbd::tcp_transport::settings{}.address == "127.0.0.1");
    CHECK(nbd::tcp_transport::settings{}.port == 10809);
    CHECK(nbd::tcp_transport::settings{}.backlog == 100);
    CHECK(nbd::tcp_transport::settings{}.no_delay);
    CHECK(nbd::tcp_transport::settings{}.user_timeout == std::chrono::minutes{2});
    CHECK(nbd::unix_transport::settings{}.mode == 0600);
    CHECK(nbd::unix_transport::settings{}.backlog == 100);
    CHECK(nbd::unix_transport::settings{}.stale == nbd::unix_transport::stale_file::replace);
}
