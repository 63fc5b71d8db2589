// SPDX-License-Identifier: MIT
#pragma once

#include <concepts>
#include <string>
#include <string_view>
#include <system_error>

namespace nbd {

/// A Transport says how bytes arrive. It makes the acceptor and prepares accepted sockets; it owns
/// no loop.
///
///     struct settings                          how it is made: where to listen, and how
///     explicit Transport(settings)
///     using protocol_type                      an Asio protocol, e.g. boost::asio::ip::tcp
///     std::error_code listen(acceptor&)        opens, binds and listens; leaves nothing behind
///                                              when it fails
///     void prepare(socket&) noexcept           sets the options of an accepted socket
///     std::string peer(const socket&)          who that is, for people
///     std::string uri(endpoint, name)          the NBD URI of an export (doc/uri.md)
///     std::string where() const                where it is to listen, for people
///     void close() noexcept                    removes what listen() left in the file system
///
/// `acceptor`, `socket` and `endpoint` are those of protocol_type, on any concrete executor.
/// Thread safety: all from one thread at a time, but peer and uri from any.
template <class T>
concept transport = requires(T& t, const T& c, typename T::protocol_type::endpoint endpoint,
                             std::string_view name) {
    typename T::settings;
    requires std::constructible_from<T, typename T::settings>;
    { c.uri(endpoint, name) } -> std::convertible_to<std::string>;
    { c.where() } -> std::convertible_to<std::string>;
    { t.close() } noexcept;
};

}  // namespace nbd
