// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/transport.hpp>
#include <nbd/transport/stream_protocol.hpp>
#include <nbd/vocabulary/client.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>
#include <nbd/vocabulary/tls.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace nbd {

/// Whether a transport can be part of any_of: its members take an acceptor and a socket of
/// stream_protocol.
template <class T>
concept any_of_member =
    requires(T& t, stream_protocol::acceptor& acceptor, stream_protocol::socket& socket) {
        t.listen(acceptor);
        t.prepare(socket);
        t.peer(socket);
    };

/// The client's end of a connection of any_of.
template <class... Peers>
struct any_peer {
    /// The number of the address that it has connected to, in the order of the settings.
    std::size_t address = 0;
    /// The peer of its transport; the index is that of the transport in any_of.
    std::variant<Peers...> of{};

    /// *Returns* what `f` returns for the peer of its transport.
    template <class F>
    decltype(auto) visit(F&& f) const
    {
        return std::visit(std::forward<F>(f), of);
    }
    [[nodiscard]] std::string text() const
    {
        return visit([](const auto& peer) { return std::string{peer.text()}; });
    }
    void describe(client& who) const
    {
        visit([&who](const auto& peer) {
            if constexpr (requires { peer.describe(who); })
                peer.describe(who);
        });
    }
    /// Peers of different transports are never of one origin; see settings.places_per_peer.
    [[nodiscard]] friend bool same_origin(const any_peer& a, const any_peer& b) noexcept
    {
        return std::visit(
                   []<class A, class B>(const A& one, const B& other) {
                       if constexpr (std::same_as<A, B>)
                           return static_cast<bool>(same_origin(one, other));
                       else
                           return false;
                   },
                   a.of, b.of)
            && a.of.index() == b.of.index();
    }
};

/// Several transports in one server, each at any number of addresses:
///
///     nbd::server<nbd::any_of<nbd::unix_transport, nbd::tls_transport<nbd::tcp_transport>>,
///                 nbd::mem_backend> server{
///         {.listen = {nbd::unix_transport::settings{.path = "/tmp/disk.sock"},
///                     nbd::tls_transport<nbd::tcp_transport>::settings{
///                         .over = {.address = "::"}, .credentials = credentials}}}};
///
/// The limits of nbd::settings are for all clients together. Sessions are compiled once: all have
/// one type of socket. The members `listen`, `prepare` and `peer` of the transports must take any
/// acceptor or socket (any_of_member), as those of this library do.
template <transport... Ts>
    requires(sizeof...(Ts) != 0)
class any_of {
    template <class T>
    static constexpr std::size_t occurrences = (std::size_t{std::same_as<T, Ts>} + ...);
    static_assert(((occurrences<Ts> == 1) && ...),
                  "nbd: any_of names each transport once; its settings may contain several "
                  "addresses of one");
    static_assert((!several_addresses<Ts> && ...),
                  "nbd: a transport of any_of is not an any_of itself");
    static_assert(((several_addresses<Ts> || any_of_member<Ts>)&&...),
                  "nbd: a transport of any_of has templates for the acceptor and the socket of its "
                  "members listen, prepare and peer: they are of nbd::stream_protocol");

public:
    /// Where to listen: the settings of the transports, in any number and order. This is not
    /// a vector, because the braces of server options would be ambiguous with one.
    struct settings {
        using address = std::variant<typename Ts::settings...>;

        settings() = default;
        template <class... One>
            requires(sizeof...(One) != 0 && (std::constructible_from<address, One> && ...))
        settings(One... all)
        {
            addresses.reserve(sizeof...(One));
            (addresses.emplace_back(std::move(all)), ...);
        }

        std::vector<address> addresses{};
    };
    using protocol_type = stream_protocol;
    using peer_type = any_peer<typename Ts::peer_type...>;

    explicit any_of(settings s)
    {
        members_.reserve(s.addresses.size());
        for (auto& one : s.addresses)
            add(one, std::index_sequence_for<Ts...>{});
    }

    [[nodiscard]] std::size_t addresses() const noexcept { return members_.size(); }
    /// *Errors*: those of the transport; where() then names the address.
    template <class Acceptor>
    [[nodiscard]] std::error_code listen(Acceptor& acceptor, std::size_t address)
    {
        failed_ = address;
        const std::error_code failed = std::visit(
            [&](auto& t) -> std::error_code { return t.listen(acceptor); }, members_[address]);
        if (!failed)
            failed_.reset();
        return failed;
    }
    template <class Socket>
    void prepare(Socket& socket, std::size_t address) noexcept
    {
        std::visit([&](auto& t) { t.prepare(socket); }, members_[address]);
    }
    template <class Socket>
    [[nodiscard]] peer_type peer(Socket& socket, std::size_t address) const
    {
        return std::visit(
            [&]<class T>(const T& t) -> peer_type {
                using peers_type = decltype(peer_type::of);
                return {address, peers_type{std::in_place_index<index_of<T>>, t.peer(socket)}};
            },
            members_[address]);
    }
    [[nodiscard]] std::string uri(const protocol_type::endpoint& endpoint, std::string_view name,
                                  std::size_t address) const
    {
        return std::visit(
            [&]<class T>(const T& t) -> std::string {
                const auto own = endpoint_of<T>(endpoint);
                return own ? std::string{t.uri(*own, name)} : std::string{};
            },
            members_[address]);
    }
    /// *Returns* the address that listen() failed for; otherwise all, with commas.
    [[nodiscard]] std::string where() const
    {
        std::string all;
        for (std::size_t i = 0; i < members_.size(); ++i) {
            if (failed_ && *failed_ != i)
                continue;
            all += all.empty() ? "" : ", ";
            all += std::visit([](const auto& t) { return std::string{t.where()}; }, members_[i]);
        }
        return all.empty() ? "nothing" : all;
    }
    void close() noexcept
    {
        for (auto& member : members_)
            std::visit([](auto& t) { t.close(); }, member);
    }

    /// For a socket of the program: *returns* the first address whose transport has sockets of this
    /// family and protocol. `protocol`: SO_PROTOCOL of the socket.
    [[nodiscard]] std::optional<std::size_t> fitting(const protocol_type::endpoint& local,
                                                     int protocol) const noexcept
    {
        const auto fits = [&]<class T>(const T&) {
            if constexpr (std::same_as<typename T::protocol_type, protocol_type>) {
                return false;  // of any family
            } else {
                const auto own = endpoint_of<T>(local);
                return own && own->protocol().family() == local.protocol().family()
                    && own->protocol().protocol() == protocol;
            }
        };
        const auto found = std::find_if(members_.begin(), members_.end(), [&](const auto& member) {
            return std::visit(fits, member);
        });
        if (found == members_.end())
            return std::nullopt;
        return static_cast<std::size_t>(found - members_.begin());
    }

    /// See connected_transport.
    [[nodiscard]] owned_descriptor connected(std::size_t address)
        requires(connected_transport<Ts> || ...)
    {
        return std::visit(
            []<class T>(T& t) {
                if constexpr (connected_transport<T>)
                    return t.connected();
                else
                    return owned_descriptor{-1};
            },
            members_[address]);
    }

    /// Whether a client must use TLS: that is up to the address it has connected to.
    [[nodiscard]] tls_mode tls(const peer_type& peer) const noexcept
        requires(securing_transport<Ts> || ...)
    {
        return std::visit(
            [&]<class T>(const T& t) {
                if constexpr (securing_transport<T>)
                    return t.tls(*std::get_if<index_of<T>>(&peer.of));
                else
                    return tls_mode::none;
            },
            members_[peer.address]);
    }
    /// *Returns* the stream for a client that has sent STARTTLS. All securing transports of
    /// an any_of have streams of one type. *Errors*: those of the transport.
    template <class Socket>
        requires(securing_transport<Ts> || ...)
    [[nodiscard]] auto upgrade(Socket& socket, const peer_type& peer) const
    {
        using stream_type = decltype(std::declval<const first_securing&>().upgrade(
            socket, std::declval<const typename first_securing::peer_type&>()));
        return std::visit(
            [&]<class T>(const T& t) -> stream_type {
                if constexpr (securing_transport<T>)
                    return t.upgrade(socket, std::get<index_of<T>>(peer.of));
                else
                    throw std::bad_variant_access{};  // its mode is none, so nothing comes here
            },
            members_[peer.address]);
    }

private:
    template <class T>
    static constexpr std::size_t index_of = [] {
        constexpr std::array same{std::same_as<T, Ts>...};
        return static_cast<std::size_t>(std::find(same.begin(), same.end(), true) - same.begin());
    }();
    static constexpr std::size_t securing_index = [] {
        constexpr std::array secures{securing_transport<Ts>...};
        const auto first = std::find(secures.begin(), secures.end(), true) - secures.begin();
        return static_cast<std::size_t>(first) % secures.size();
    }();
    using first_securing = std::tuple_element_t<securing_index, std::tuple<Ts...>>;

    template <std::size_t... I>
    void add(typename settings::address& one, std::index_sequence<I...>)
    {
        const auto take = [&]<std::size_t Index>(std::in_place_index_t<Index> index) {
            if (one.index() == Index)
                members_.emplace_back(index, std::move(std::get<Index>(one)));
        };
        (take(std::in_place_index<I>), ...);
    }
    /// *Returns* an endpoint as the type of a transport; nothing if it is too long for that.
    template <class T>
    [[nodiscard]] static auto endpoint_of(const protocol_type::endpoint& from)
        -> std::optional<typename T::protocol_type::endpoint>
    {
        typename T::protocol_type::endpoint own;
        if (from.size() > own.capacity())
            return std::nullopt;
        std::memcpy(static_cast<void*>(own.data()), from.data(), from.size());
        own.resize(from.size());
        return own;
    }

    std::vector<std::variant<Ts...>> members_;
    std::optional<std::size_t> failed_;  ///< the address that could not be listened at
};

}  // namespace nbd
