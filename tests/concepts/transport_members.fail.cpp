// SPDX-License-Identifier: MIT
// A transport without one of its members, or with a wrong one. No Asio: the concept needs only
// names.
// expect NO_SETTINGS: nbd: a transport needs `struct settings` and a constructor that takes it
// expect NO_CONSTRUCTOR: nbd: a transport needs `struct settings` and a constructor that takes it
// expect NO_PROTOCOL_TYPE: nbd: a transport needs `using protocol_type`, an Asio protocol such as
// expect NO_PEER_TYPE: nbd: a transport needs `using peer_type`, a type with `std::string text() const`
// expect NO_TEXT: nbd: a transport needs `using peer_type`, a type with `std::string text() const`
// expect NO_SAME_ORIGIN: nbd: a transport needs `using peer_type`, a type with `std::string text() const`
// expect DESCRIBE_IS_NOT_CONST: nbd: the `describe` of a transport's peer_type has the wrong shape
// expect DESCRIBE_OF_NOTHING: nbd: the `describe` of a transport's peer_type has the wrong shape
// expect NO_LISTEN: nbd: a transport needs `std::error_code listen(acceptor&)`
// expect NO_PREPARE: nbd: a transport needs `void prepare(socket&) noexcept`
// expect THROWING_PREPARE: nbd: a transport needs `void prepare(socket&) noexcept`
// expect NO_PEER: nbd: a transport needs `peer_type peer(socket&) const`
// expect NO_URI: nbd: a transport needs `std::string uri(const protocol_type::endpoint&,
// expect NO_WHERE: nbd: a transport needs `std::string where() const`
// expect NO_CLOSE: nbd: a transport needs `void close() noexcept`
// expect THROWING_CLOSE: nbd: a transport needs `void close() noexcept`
#include <nbd/concepts/transport.hpp>

#include <string>
#include <string_view>
#include <system_error>

struct protocol {
    struct endpoint {};
    struct acceptor {};
    struct socket {};
};

struct client {
#ifndef NO_TEXT
    std::string text() const;
#endif
#ifdef DESCRIBE_IS_NOT_CONST
    void describe(nbd::client&);
#elif defined DESCRIBE_OF_NOTHING
    void describe() const;
#else
    void describe(nbd::client&) const;
#endif
};
#ifndef NO_SAME_ORIGIN
bool same_origin(const client&, const client&);
#endif

class carrier {
public:
#ifndef NO_SETTINGS
    struct settings {};
#ifndef NO_CONSTRUCTOR
    explicit carrier(settings);
#endif
#endif
#ifndef NO_PROTOCOL_TYPE
    using protocol_type = protocol;
#endif
#ifndef NO_PEER_TYPE
    using peer_type = client;
#endif
#ifndef NO_LISTEN
    std::error_code listen(protocol::acceptor&);
#endif
#ifdef THROWING_PREPARE
    void prepare(protocol::socket&);
#elif !defined(NO_PREPARE)
    void prepare(protocol::socket&) noexcept;
#endif
#ifndef NO_PEER
    client peer(protocol::socket&) const;
#endif
#ifndef NO_URI
    std::string uri(const protocol::endpoint&, std::string_view) const;
#endif
#ifndef NO_WHERE
    std::string where() const;
#endif
#ifdef THROWING_CLOSE
    void close();
#elif !defined(NO_CLOSE)
    void close() noexcept;
#endif
};

inline constexpr bool sound = nbd::diagnosis::transport_is_sound<carrier, true>();
