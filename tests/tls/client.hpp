// SPDX-License-Identifier: MIT
// A raw client that starts TLS. What it sends goes through memory, so that a test can cut it.
#pragma once

#include "grid/client.hpp"
#include "tls/certificates.hpp"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <utility>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

namespace tls_test {

using grid::bytes;
using grid::raw_client;
namespace proto = nbd::protocol;

/// What a client presents and accepts.
struct client_settings {
    const identity* authority = nullptr;  ///< null: the server's certificate is not verified
    const identity* certificate = nullptr;
    int least_version = TLS1_2_VERSION;
    int most_version = 0;  ///< the newest
    std::string psk_identity{};
    std::string psk{};  ///< hexadecimal
};

/// The last error of OpenSSL on this thread.
inline std::string error_text()
{
    std::string text(256, '\0');
    ::ERR_error_string_n(ERR_peek_last_error(), text.data(), text.size());
    return text;
}

class tls_client : public raw_client {
public:
    tls_client(raw_client plain, const client_settings& with)
        : raw_client{std::move(plain)}, settings_{with},
          context_{checked(::SSL_CTX_new(::TLS_client_method()))}
    {
        auto* const c = context_.get();
        ::SSL_CTX_set_security_level(c, with.least_version < TLS1_2_VERSION ? 0 : 1);
        SSL_CTX_set_min_proto_version(c, with.least_version);
        SSL_CTX_set_max_proto_version(c, with.most_version);
        if (with.least_version < TLS1_2_VERSION)
            ::SSL_CTX_set_cipher_list(c, "ALL:@SECLEVEL=0");
        if (with.authority != nullptr) {
            ::X509_STORE_add_cert(::SSL_CTX_get_cert_store(c), with.authority->certificate.get());
            ::SSL_CTX_set_verify(c, SSL_VERIFY_PEER, nullptr);
        }
        if (with.certificate != nullptr) {
            ::SSL_CTX_use_certificate(c, with.certificate->certificate.get());
            ::SSL_CTX_use_PrivateKey(c, with.certificate->key.get());
        }
        if (!with.psk_identity.empty())
            ::SSL_CTX_set_psk_client_callback(c, &psk);
        ssl_.reset(checked(::SSL_new(c)));
        in_ = ::BIO_new(::BIO_s_mem());
        out_ = ::BIO_new(::BIO_s_mem());
        ::SSL_set_bio(ssl(), in_, out_);
        SSL_set_app_data(ssl(), &settings_);
        ::SSL_set_connect_state(ssl());
    }

    [[nodiscard]] ::SSL* ssl() const noexcept { return ssl_.get(); }
    /// The number of bytes in one send.
    std::size_t piece = std::numeric_limits<std::size_t>::max();

    /// STARTTLS, without its handshake. *Returns* whether it was acknowledged.
    [[nodiscard]] bool ask_for_tls()
    {
        return ask(proto::option::starttls).back().type == proto::option_reply::ack;
    }
    /// The TLS handshake. *Returns* whether it succeeds, as this side sees it.
    bool handshake()
    {
        secured_ = true;
        return pump([this] { return ::SSL_do_handshake(ssl()); }) == 1;
    }
    /// Greeting, STARTTLS and handshake.
    bool start_tls()
    {
        greet();
        return ask_for_tls() && handshake();
    }
    /// The first bytes of the handshake, that are not sent.
    [[nodiscard]] bytes client_hello()
    {
        ::SSL_do_handshake(ssl());
        return taken_out();
    }
    /// Calls a function of OpenSSL, and exchanges what it sends and needs.
    template <class Call>
    int pump(Call call)
    {
        for (;;) {
            ERR_clear_error();
            const int result = call();
            const int why = ::SSL_get_error(ssl(), result);
            const auto sends = taken_out();
            for (std::size_t at = 0; at < sends.size();) {
                const auto part = std::span{sends}.subspan(at, std::min(piece, sends.size() - at));
                const auto n = raw_client::put(part);
                if (n < 0)
                    return -1;
                at += static_cast<std::size_t>(n);
            }
            if (result > 0 || why != SSL_ERROR_WANT_READ)
                return result;
            bytes room(65536);
            const auto n = raw_client::take(room);
            if (n <= 0) {
                ended_ = n == 0;
                return n == 0 ? 0 : -1;
            }
            ::BIO_write(in_, room.data(), static_cast<int>(n));
        }
    }
    void close_notify()
    {
        ::SSL_shutdown(ssl());
        for (const auto sends = taken_out(); std::exchange(closing_, true) == false;)
            std::ignore = raw_client::put(sends);
    }
    /// Whether the server's end of the TLS stream was announced (close_notify).
    [[nodiscard]] bool was_told_of_end() const
    {
        return (::SSL_get_shutdown(ssl()) & SSL_RECEIVED_SHUTDOWN) != 0;
    }
    /// INFO and GO inside TLS, without a greeting.
    [[nodiscard]] proto::option_reply go_inside(std::string_view name)
    {
        return ask(proto::option::go, info_data(name)).back().type;
    }
    /// Sends bytes outside of TLS. *Returns* false if the server has closed the connection.
    bool send_plainly(std::span<const std::byte> all) { return raw_client::put(all) > 0; }

protected:
    ::ssize_t put(std::span<const std::byte> some) override
    {
        if (!secured_)
            return raw_client::put(some);
        const auto n = pump([&] {
            return ::SSL_write(ssl(), some.data(),
                               static_cast<int>(std::min(some.size(), std::size_t{1} << 20)));
        });
        if (n <= 0)
            errno = EPIPE;
        return n > 0 ? n : -1;
    }
    ::ssize_t take(std::span<std::byte> room) override
    {
        if (!secured_)
            return raw_client::take(room);
        const auto n = pump([&] {
            return ::SSL_read(ssl(), room.data(),
                              static_cast<int>(std::min(room.size(), std::size_t{1} << 20)));
        });
        if (n > 0)
            return n;
        if (was_told_of_end() || ended_)
            return 0;
        if (errno != EAGAIN)
            errno = ECONNRESET;  // an alert
        return -1;
    }

private:
    [[nodiscard]] bytes taken_out()
    {
        bytes all(static_cast<std::size_t>(BIO_pending(out_)));
        if (!all.empty())
            ::BIO_read(out_, all.data(), static_cast<int>(all.size()));
        return all;
    }
    static unsigned psk(::SSL* of, const char*, char* identity, unsigned room, unsigned char* key,
                        unsigned key_room)
    {
        const auto& s = *static_cast<const client_settings*>(SSL_get_app_data(of));
        if (s.psk_identity.size() + 1 > room || s.psk.size() / 2 > key_room)
            return 0;
        std::memcpy(identity, s.psk_identity.c_str(), s.psk_identity.size() + 1);
        for (std::size_t i = 0; i < s.psk.size() / 2; ++i)
            key[i] = static_cast<unsigned char>(std::stoi(s.psk.substr(2 * i, 2), nullptr, 16));
        return static_cast<unsigned>(s.psk.size() / 2);
    }

    client_settings settings_;
    owned<::SSL_CTX, &::SSL_CTX_free> context_;
    owned<::SSL, &::SSL_free> ssl_;
    ::BIO* in_ = nullptr;   // owned by ssl_
    ::BIO* out_ = nullptr;  // owned by ssl_
    bool secured_ = false;
    bool ended_ = false;
    bool closing_ = false;
};

}  // namespace tls_test
