// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/tls/context.hpp>
#include <nbd/vocabulary/tls.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <openssl/asn1.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

namespace nbd::tls {

/// *Returns* the subject of a certificate as RFC 2253 writes it. Bytes that are not printable ASCII
/// are escaped.
[[nodiscard]] inline std::string subject_of(const ::X509& certificate)
{
    const owned<::BIO, &::BIO_free> text{::BIO_new(::BIO_s_mem())};
    if (!text
        || ::X509_NAME_print_ex(text.get(), ::X509_get_subject_name(&certificate), 0,
                                XN_FLAG_RFC2253)
            < 0)
        throw std::bad_alloc{};
    char* bytes = nullptr;
    const auto n = BIO_get_mem_data(text.get(), &bytes);
    return {bytes, static_cast<std::size_t>(n)};
}

/// *Returns* the names in a certificate's extension subjectAltName: "DNS:", "email:", "URI:" or
/// "IP:", and the name. Names of other kinds, and names with bytes that are not printable ASCII,
/// which could pass for another name, are left out.
[[nodiscard]] inline std::vector<std::string> names_of(const ::X509& certificate)
{
    std::vector<std::string> all;
    const owned<::GENERAL_NAMES, &::GENERAL_NAMES_free> names{static_cast<::GENERAL_NAMES*>(
        ::X509_get_ext_d2i(&certificate, NID_subject_alt_name, nullptr, nullptr))};
    for (int i = 0; names && i < sk_GENERAL_NAME_num(names.get()); ++i) {
        int kind = 0;
        const auto* const value = static_cast<const ::ASN1_STRING*>(
            ::GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(names.get(), i), &kind));
        if (kind != GEN_DNS && kind != GEN_EMAIL && kind != GEN_URI && kind != GEN_IPADD)
            continue;
        const std::string_view bytes{reinterpret_cast<const char*>(::ASN1_STRING_get0_data(value)),
                                     static_cast<std::size_t>(::ASN1_STRING_length(value))};
        if (kind == GEN_IPADD) {
            std::array<char, INET6_ADDRSTRLEN> text{};
            if ((bytes.size() == 4 || bytes.size() == 16)
                && ::inet_ntop(bytes.size() == 4 ? AF_INET : AF_INET6, bytes.data(), text.data(),
                               text.size())
                    != nullptr)
                all.push_back(std::string{"IP:"} + text.data());
        } else if (std::all_of(bytes.begin(), bytes.end(),
                               [](char c) { return c > ' ' && c < '\x7f'; })) {
            const char* const prefix = kind == GEN_DNS ? "DNS:"
                : kind == GEN_EMAIL                    ? "email:"
                                                       : "URI:";
            all.push_back(prefix + std::string{bytes});
        }
    }
    return all;
}

/// *Returns* the SHA-256 digest of a certificate in lower-case hexadecimal digits.
[[nodiscard]] inline std::string fingerprint_of(const ::X509& certificate)
{
    constexpr std::string_view digits = "0123456789abcdef";
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned n = 0;
    if (::X509_digest(&certificate, ::EVP_sha256(), digest.data(), &n) != 1)
        throw std::bad_alloc{};
    std::string text;
    for (const auto byte : std::basic_string_view<unsigned char>{digest.data(), n}) {
        text += digits[byte >> 4];
        text += digits[byte & 15];
    }
    return text;
}

/// *Returns* what is known of the peer of a connection whose handshake has succeeded.
/// *Errors*: std::bad_alloc.
[[nodiscard]] inline tls_info peer_info(const ::SSL& connection)
{
    tls_info info{.version = ::SSL_get_version(&connection),
                  .cipher = SSL_get_cipher_name(&connection)};
    // Sessions are not resumed, so what TLS 1.3 calls a resumption is a pre-shared key.
    const bool by_key = ::SSL_session_reused(&connection) == 1
        || ::SSL_CIPHER_get_auth_nid(::SSL_get_current_cipher(&connection)) == NID_auth_psk;
    if (by_key)
        info.psk_identity =
            static_cast<const context::connection_data*>(SSL_get_app_data(&connection))
                ->psk_identity;
    const owned<::X509, &::X509_free> certificate{::SSL_get1_peer_certificate(&connection)};
    if (certificate) {
        info.subject = subject_of(*certificate);
        info.names = names_of(*certificate);
        info.fingerprint = fingerprint_of(*certificate);
    }
    return info;
}

}  // namespace nbd::tls
