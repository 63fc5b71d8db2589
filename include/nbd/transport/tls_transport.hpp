// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/concepts/transport.hpp>
#include <nbd/error.hpp>
#include <nbd/tls/credentials.hpp>
#include <nbd/tls/stream.hpp>
#include <nbd/vocabulary/owned_descriptor.hpp>
#include <nbd/vocabulary/tls.hpp>

#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace nbd {

/// TLS over another transport, which NBD starts inside the handshake (STARTTLS):
///
///     nbd::tls_credentials credentials{{.certificates = "/etc/pki/nbd"}};
///     nbd::server<nbd::tls_transport<nbd::tcp_transport>, nbd::mem_backend, nbd::strand_pool>
///         server{{.over = {.address = "::"}, .credentials = credentials}};
///
/// TLS 1.3 and 1.2, with certificates or pre-shared keys. nbd::client tells backends, lookups and
/// observers what is known of the client. It needs OpenSSL 3 and the CMake target nbd::tls; see
/// docs/tls.md.
template <transport Next>
class tls_transport {
    static_assert(!several_addresses<Next>,
                  "nbd: TLS is added to each transport: any_of<tls_transport<A>, B>, not "
                  "tls_transport<any_of<A, B>>");

public:
    struct settings {
        /// Where to listen: the settings of `Next`.
        typename Next::settings over{};
        /// Which clients must use TLS.
        tls_mode mode = tls_mode::forced;
        tls_credentials credentials{};
    };

    using protocol_type = typename Next::protocol_type;
    using peer_type = typename Next::peer_type;

    explicit tls_transport(settings s)
        : next_{std::move(s.over)}, mode_{s.mode}, credentials_{std::move(s.credentials)}
    {
    }

    /// *Errors*: errc::no_tls_credentials; those of `Next`.
    template <class Acceptor>
    [[nodiscard]] std::error_code listen(Acceptor& acceptor)
    {
        if (mode_ != tls_mode::none && !credentials_)
            return errc::no_tls_credentials;
        return next_.listen(acceptor);
    }
    template <class Socket>
    void prepare(Socket& socket) noexcept
    {
        next_.prepare(socket);
    }
    template <class Socket>
    [[nodiscard]] peer_type peer(Socket& socket) const
    {
        return next_.peer(socket);
    }
    /// *Returns* a URI with the scheme nbds or nbds+unix, unless the mode is tls_mode::none.
    [[nodiscard]] std::string uri(const typename protocol_type::endpoint& endpoint,
                                  std::string_view name) const
    {
        auto plain = next_.uri(endpoint, name);
        constexpr std::string_view scheme = "nbd";
        if (mode_ != tls_mode::none && plain.starts_with(scheme))
            plain.insert(scheme.size(), 1, 's');
        return plain;
    }
    [[nodiscard]] std::string where() const { return next_.where(); }
    void close() noexcept { next_.close(); }

    /// See connected_transport.
    [[nodiscard]] owned_descriptor connected()
        requires connected_transport<Next>
    {
        return next_.connected();
    }

    /// Which clients must use TLS. *Thread safety*: any thread.
    [[nodiscard]] tls_mode tls(const peer_type&) const noexcept { return mode_; }
    /// *Returns* the stream for a client that has sent STARTTLS. *Errors*: std::bad_alloc.
    /// *Thread safety*: any thread.
    template <class Socket>
    [[nodiscard]] tls::stream<Socket> upgrade(Socket& socket, const peer_type&) const
    {
        return tls::stream<Socket>{socket, credentials_.current()};
    }

private:
    Next next_;
    tls_mode mode_;
    tls_credentials credentials_;
};

}  // namespace nbd
