// SPDX-License-Identifier: MIT
// Records of application data that a TLS client seals by itself, such as OpenSSL never sends.
#pragma once

#include "tls/certificates.hpp"
#include "tls/client.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/ssl.h>

namespace tls_test {

/// Seals with AES-128-GCM and SHA-256, as a client that has sent nothing after its TLS handshake.
/// It exists before the handshake, and the client's own functions send nothing later.
class record_sealer {
    using octets = std::vector<unsigned char>;

public:
    explicit record_sealer(tls_client& client) : ssl_{client.ssl()}
    {
        ::SSL_set_cipher_list(ssl_, "ECDHE-ECDSA-AES128-GCM-SHA256");
        ::SSL_set_ciphersuites(ssl_, "TLS_AES_128_GCM_SHA256");
        ::SSL_CTX_set_keylog_callback(::SSL_get_SSL_CTX(ssl_), &note);
        log().clear();
    }

    [[nodiscard]] bytes seal(std::span<const std::byte> data)
    {
        if (key_.empty())
            derive();
        const bool newer = ::SSL_version(ssl_) == TLS1_3_VERSION;
        const auto number = big_endian(sequence_++, 8);
        octets plain(data.size());
        for (std::size_t i = 0; i < data.size(); ++i)
            plain[i] = std::to_integer<unsigned char>(data[i]);
        if (newer)
            plain.push_back(SSL3_RT_APPLICATION_DATA);
        octets header{SSL3_RT_APPLICATION_DATA, 3, 3};
        append(header, big_endian(plain.size() + tag_bytes + (newer ? 0 : 8), 2));
        octets nonce = iv_;
        octets authenticated = header;
        if (newer) {
            for (std::size_t i = 0; i < 8; ++i)
                nonce[4 + i] ^= number[i];
        } else {
            append(nonce, number);
            authenticated = number;
            append(authenticated, {SSL3_RT_APPLICATION_DATA, 3, 3});
            append(authenticated, big_endian(plain.size(), 2));
            append(header, number);
        }
        append(header, encrypt(nonce, authenticated, plain));
        bytes all(header.size());
        for (std::size_t i = 0; i < all.size(); ++i)
            all[i] = static_cast<std::byte>(header[i]);
        return all;
    }

private:
    static constexpr std::size_t tag_bytes = 16;

    static std::string& log()
    {
        static thread_local std::string text;
        return text;
    }
    static void note(const ::SSL*, const char* line) { log() += std::string{line} + '\n'; }
    static void append(octets& to, const octets& more)
    {
        to.insert(to.end(), more.begin(), more.end());
    }
    static octets big_endian(std::uint64_t value, std::size_t n)
    {
        octets all(n);
        for (; n != 0; value >>= 8)
            all[--n] = static_cast<unsigned char>(value);
        return all;
    }
    static octets hmac(const octets& key, const octets& data)
    {
        octets made(32);
        checked(::HMAC(::EVP_sha256(), key.data(), static_cast<int>(key.size()), data.data(),
                       data.size(), made.data(), nullptr));
        return made;
    }

    void derive()
    {
        if (::SSL_version(ssl_) == TLS1_3_VERSION) {
            constexpr std::string_view word = "CLIENT_TRAFFIC_SECRET_0 ";
            const auto line = log().substr(log().find(word) + word.size());
            const auto hex = line.substr(line.find(' ') + 1, 64);
            octets secret(32);
            for (std::size_t i = 0; i < secret.size(); ++i)
                secret[i] =
                    static_cast<unsigned char>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
            key_ = expand_label(secret, "key", 16);
            iv_ = expand_label(secret, "iv", 12);
            return;
        }
        octets master(48);
        ::SSL_SESSION_get_master_key(::SSL_get_session(ssl_), master.data(), master.size());
        octets random(64);
        ::SSL_get_server_random(ssl_, random.data(), 32);
        ::SSL_get_client_random(ssl_, random.data() + 32, 32);
        constexpr std::string_view label = "key expansion";
        octets seed(label.begin(), label.end());
        append(seed, random);
        octets block;
        for (auto a = hmac(master, seed); block.size() < 40; a = hmac(master, a)) {
            auto part = a;
            append(part, seed);
            append(block, hmac(master, part));
        }
        key_.assign(block.begin(), block.begin() + 16);
        iv_.assign(block.begin() + 32, block.begin() + 36);
        sequence_ = 1;  // the client's Finished was the first
    }
    /// HKDF-Expand-Label of TLS 1.3, with an empty context and at most 32 bytes.
    static octets expand_label(const octets& secret, std::string_view label, std::size_t n)
    {
        const std::string name = "tls13 " + std::string{label};
        octets info = big_endian(n, 2);
        info.push_back(static_cast<unsigned char>(name.size()));
        info.insert(info.end(), name.begin(), name.end());
        append(info, {0, 1});
        auto made = hmac(secret, info);
        made.resize(n);
        return made;
    }
    [[nodiscard]] octets encrypt(const octets& nonce, const octets& authenticated,
                                 const octets& plain) const
    {
        const owned<::EVP_CIPHER_CTX, &::EVP_CIPHER_CTX_free> cipher{
            checked(::EVP_CIPHER_CTX_new())};
        auto* const c = cipher.get();
        octets made(plain.size() + tag_bytes);
        int n = 0;
        checked(::EVP_EncryptInit_ex(c, ::EVP_aes_128_gcm(), nullptr, key_.data(), nonce.data()));
        checked(::EVP_EncryptUpdate(c, nullptr, &n, authenticated.data(),
                                    static_cast<int>(authenticated.size())));
        if (!plain.empty())
            checked(::EVP_EncryptUpdate(c, made.data(), &n, plain.data(),
                                        static_cast<int>(plain.size())));
        std::array<unsigned char, 16> rest{};
        checked(::EVP_EncryptFinal_ex(c, rest.data(), &n));
        checked(
            ::EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, tag_bytes, made.data() + plain.size()));
        return made;
    }

    ::SSL* const ssl_;
    octets key_{};
    octets iv_{};
    std::uint64_t sequence_ = 0;
};

}  // namespace tls_test
