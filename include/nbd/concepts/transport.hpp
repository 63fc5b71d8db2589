// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/vocabulary/client.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>
#include <nbd/vocabulary/tls.hpp>

#include <concepts>
#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>

namespace nbd {

/// A transport that listens at several addresses, see nbd::any_of. They are numbered from 0. Its
/// members listen, prepare, peer, uri and connected take the number of the address as their last
/// argument. It has two more members:
///
///     std::size_t addresses() const
///     std::optional<std::size_t> fitting(endpoint, int protocol) const
///                                              the address whose rules apply to a socket of the
///                                              program, by its local endpoint and its SO_PROTOCOL
template <class T>
concept several_addresses = requires(const T& t) {
    { t.addresses() } -> std::same_as<std::size_t>;
};

/// The requirements of `transport`, one by one.
namespace transport_has {

template <class T>
concept settings =
    requires { typename T::settings; } && std::constructible_from<T, typename T::settings>;
template <class T>
concept protocol_type = requires {
    typename T::protocol_type::endpoint;
    typename T::protocol_type::acceptor;
    typename T::protocol_type::socket;
};
template <class T>
concept peer_type = requires(const typename T::peer_type& p) {
    { p.text() } -> std::convertible_to<std::string>;
    { same_origin(p, p) } -> std::convertible_to<bool>;
};
/// Optional, but not with another shape.
template <class T>
concept describe = requires(const typename T::peer_type& p, client& who) {
    { p.describe(who) } -> std::same_as<void>;
} || !requires { &T::peer_type::describe; };
template <class T>
concept listen = requires(T& t, typename T::protocol_type::acceptor& a) {
    { t.listen(a) } -> std::convertible_to<std::error_code>;
} || (several_addresses<T> && requires(T& t, typename T::protocol_type::acceptor& a) {
                     {
                         t.listen(a, std::size_t{})
                     } -> std::convertible_to<std::error_code>;
                 });
template <class T>
concept prepare = requires(T& t, typename T::protocol_type::socket& s) {
    { t.prepare(s) } noexcept;
} || (several_addresses<T> && requires(T& t, typename T::protocol_type::socket& s) {
                      {
                          t.prepare(s, std::size_t{})
                      } noexcept;
                  });
template <class T>
concept peer = requires(const T& t, typename T::protocol_type::socket& s) {
    { t.peer(s) } -> std::same_as<typename T::peer_type>;
} || (several_addresses<T> && requires(const T& t, typename T::protocol_type::socket& s) {
                   {
                       t.peer(s, std::size_t{})
                   } -> std::same_as<typename T::peer_type>;
               });
template <class T>
concept uri =
    requires(const T& t, const typename T::protocol_type::endpoint& at,
             std::string_view export_name) {
        { t.uri(at, export_name) } -> std::convertible_to<std::string>;
    }
    || (several_addresses<T>
        && requires(const T& t, const typename T::protocol_type::endpoint& at,
                    std::string_view export_name) {
               {
                   t.uri(at, export_name, std::size_t{})
               } -> std::convertible_to<std::string>;
           });
template <class T>
concept where = requires(const T& t) {
    { t.where() } -> std::convertible_to<std::string>;
};
template <class T>
concept close = requires(T& t) {
    { t.close() } noexcept;
};

}  // namespace transport_has

/// A Transport decides how clients connect. It opens the acceptor and prepares accepted sockets; it
/// runs no loop.
///
///     struct settings                          where to listen, and how
///     explicit Transport(settings)
///     using protocol_type                      an Asio protocol, e.g. boost::asio::ip::tcp
///     using peer_type                          the client's end of a connection, with
///                                              `std::string text() const`, for logs, and
///                                              `bool same_origin(const peer_type&,
///                                              const peer_type&)`, found by its arguments:
///                                              whether both count as one peer for
///                                              settings.places_per_peer; optionally
///                                              `void describe(nbd::client&) const`, which sets
///                                              the members of nbd::client that come from the
///                                              transport: without it only `peer` is known
///     std::error_code listen(acceptor&)        opens, binds and listens; after an error, it has
///                                              closed and removed everything that it created
///     void prepare(socket&) noexcept           sets the options of an accepted socket
///     peer_type peer(socket&) const            the client's end of the connection
///     std::string uri(endpoint, name) const    the NBD URI of an export (doc/uri.md of the
///                                              specification)
///     std::string where() const                where it is configured to listen, for error texts
///     void close() noexcept                    removes what listen() created in the file system;
///                                              may be called again
///
/// `acceptor`, `socket` and `endpoint` are those of protocol_type, on any concrete executor.
/// *Thread safety*: one thread at a time, except uri: any thread.
template <class T>
concept transport = transport_has::settings<T> && transport_has::protocol_type<T>
    && transport_has::peer_type<T> && transport_has::describe<T> && transport_has::listen<T>
    && transport_has::prepare<T> && transport_has::peer<T> && transport_has::uri<T>
    && transport_has::where<T> && transport_has::close<T>;

/// A transport that can secure a connection with TLS, see nbd::tls_transport. It has two more
/// members, for any thread:
///
///     tls_mode tls(peer) const                 whether this client must use TLS
///     Stream upgrade(socket&, peer) const      the stream for a client that has sent STARTTLS. It
///                                              is an io::layered stream with
///                                              `error_code handshake_now()`, `tls_info info()` and
///                                              `void close_now()`, which do not wait.
template <class T>
concept securing_transport = requires(const T& t, const typename T::peer_type& p) {
    { t.tls(p) } -> std::same_as<tls_mode>;
};

/// A transport whose client is connected already, see nbd::fd_transport. `listen` then leaves the
/// acceptor closed, and one more member is called once after it. A server that listens nowhere
/// stops when the last such client has left.
///
///     owned_descriptor connected()             the socket of the client
template <class T>
concept connected_transport = requires(T& t) {
    { t.connected() } -> std::same_as<owned_descriptor>;
} || (several_addresses<T> && requires(T& t) {
                                  {
                                      t.connected(std::size_t{})
                                  } -> std::same_as<owned_descriptor>;
                              });

namespace diagnosis {

/// Whether the class has all members. The first that is missing becomes a compile error of one
/// sentence if `Explain` is true.
template <class T, bool Explain = false>
consteval bool transport_is_sound()
{
    namespace has = transport_has;
    if constexpr (!has::settings<T>) {
        static_assert(!Explain,
                      "nbd: a transport needs `struct settings` and a constructor that takes it");
        return false;
    } else if constexpr (!has::protocol_type<T>) {
        static_assert(!Explain,
                      "nbd: a transport needs `using protocol_type`, an Asio protocol such as "
                      "boost::asio::ip::tcp");
        return false;
    } else if constexpr (!has::peer_type<T>) {
        static_assert(!Explain,
                      "nbd: a transport needs `using peer_type`, a type with `std::string text() "
                      "const` and `bool same_origin(const peer_type&, const peer_type&)`");
        return false;
    } else if constexpr (!has::describe<T>) {
        static_assert(
            !Explain,
            "nbd: the `describe` of a transport's peer_type has the wrong shape; expected "
            "`void describe(nbd::client&) const`");
        return false;
    } else if constexpr (!has::listen<T>) {
        static_assert(!Explain,
                      "nbd: a transport needs `std::error_code listen(acceptor&)` for any acceptor "
                      "of its protocol_type");
        return false;
    } else if constexpr (!has::prepare<T>) {
        static_assert(!Explain,
                      "nbd: a transport needs `void prepare(socket&) noexcept` for any socket of "
                      "its protocol_type");
        return false;
    } else if constexpr (!has::peer<T>) {
        static_assert(!Explain,
                      "nbd: a transport needs `peer_type peer(socket&) const` for any socket of "
                      "its protocol_type");
        return false;
    } else if constexpr (!has::uri<T>) {
        static_assert(!Explain,
                      "nbd: a transport needs `std::string uri(const protocol_type::endpoint&, "
                      "std::string_view export_name) const`");
        return false;
    } else if constexpr (!has::where<T>) {
        static_assert(!Explain, "nbd: a transport needs `std::string where() const`");
        return false;
    } else if constexpr (!has::close<T>) {
        static_assert(!Explain, "nbd: a transport needs `void close() noexcept`");
        return false;
    } else {
        return true;
    }
}

}  // namespace diagnosis

}  // namespace nbd
