// SPDX-License-Identifier: MIT
// Transports that any_of cannot combine.
// expect TWICE: nbd: any_of names each transport once; its settings may contain several addresses of one
// expect NESTED: nbd: a transport of any_of is not an any_of itself
// expect NOT_GENERIC: nbd: a transport of any_of has templates for the acceptor and the socket
#include <nbd/server.hpp>
#include <nbd/transport/any_of.hpp>

#include <string>
#include <string_view>
#include <system_error>

// Its members take the acceptor and the socket of its own protocol.
struct carrier {
    struct settings {};
    explicit carrier(settings) {}
    using protocol_type = boost::asio::ip::tcp;
    using peer_type = nbd::tcp_peer;
    std::error_code listen(protocol_type::acceptor&) { return {}; }
    void prepare(protocol_type::socket&) noexcept {}
    peer_type peer(protocol_type::socket&) const { return {}; }
    std::string uri(const protocol_type::endpoint&, std::string_view) const { return {}; }
    std::string where() const { return {}; }
    void close() noexcept {}
};
static_assert(nbd::transport<carrier>);

#ifdef TWICE
using several = nbd::any_of<nbd::tcp_transport, nbd::unix_transport, nbd::tcp_transport>;
#elif defined(NESTED)
using several = nbd::any_of<nbd::tcp_transport, nbd::any_of<nbd::unix_transport>>;
#elif defined(NOT_GENERIC)
using several = nbd::any_of<nbd::tcp_transport, carrier>;
#else
using several = nbd::any_of<nbd::tcp_transport, nbd::unix_transport>;
#endif

inline constexpr auto size = sizeof(several);
