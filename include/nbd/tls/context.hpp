// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/tls/error.hpp>
#include <nbd/tls/psk_keys.hpp>
#include <nbd/tls/secret_file.hpp>
#include <nbd/vocabulary/failure.hpp>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <unistd.h>

namespace nbd {

/// Where the credentials of a TLS server are. One of the two, or both.
struct tls_files {
    /// A folder with `server-cert.pem`, which may be followed by intermediate certificates, and
    /// `server-key.pem`; `ca-cert.pem`, for `verify_peer`; and, if there is one, `ca-crl.pem`, with
    /// the certificates of clients that were revoked. This is the layout of qemu and nbdkit.
    std::string certificates{};
    /// A file of pre-shared keys as psktool of GnuTLS writes it, usually called `keys.psk`: a line
    /// `identity:key` for each client, with the key in hexadecimal digits.
    std::string psk{};
    /// A client must have a certificate that a certificate in `ca-cert.pem` has signed, or a
    /// pre-shared key.
    bool verify_peer = false;
};

namespace tls {

/// Calls a function of OpenSSL that frees an object.
template <auto Free>
struct freed_by {
    template <class T>
    void operator()(T* object) const noexcept
    {
        Free(object);
    }
};
template <class T, auto Free>
using owned = std::unique_ptr<T, freed_by<Free>>;

/// The configuration of TLS, with credentials that were loaded at one time. Constant, and shared by
/// the connections that were begun with it.
/// *Thread safety*: any thread.
class context {
public:
    /// *Returns* null on failure, with the cause in `why`, whose text names the file and what was
    /// expected. *Errors*: std::bad_alloc.
    [[nodiscard]] static std::shared_ptr<const context> load(const tls_files& files, failure& why)
    {
        ERR_clear_error();
        const std::shared_ptr<context> made{new context};
        const bool fine = made->configure(files, why) && made->load_certificates(files, why)
            && made->load_keys(files, why);
        ERR_clear_error();
        return fine ? made : nullptr;
    }

    [[nodiscard]] ::SSL_CTX* get() const noexcept { return context_.get(); }

    /// What the application data of an SSL object point to.
    struct connection_data {
        std::string psk_identity{};  ///< that the client has claimed, and that has a key
        std::size_t messages = 0;    ///< that carry no data, since data were received
    };

private:
    context() : context_{::SSL_CTX_new(::TLS_server_method())}
    {
        if (!context_)
            throw std::bad_alloc{};
    }

    static bool fails(failure& why, std::string text)
    {
        ERR_clear_error();
        why = {std::errc::invalid_argument, std::move(text)};
        return false;
    }

    bool configure(const tls_files& files, failure& why)
    {
        if (files.certificates.empty() && files.psk.empty())
            return fails(why, "expected a folder of certificates, or a file of pre-shared keys");
        if (files.verify_peer && files.certificates.empty())
            return fails(why, "expected a folder of certificates for the verification of clients");
        auto* const c = context_.get();
        // A resumed session would skip the verification of the client, whose certificate may have
        // been revoked; NBD connections are long, so there is little to save.
        SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
        ::SSL_CTX_set_num_tickets(c, 0);
        constexpr unsigned char id[] = {'n', 'b', 'd'};  // for pre-shared keys with verify_peer
        ::SSL_CTX_set_session_id_context(c, id, sizeof(id));
        ::SSL_CTX_set_options(c,
                              SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION
                                  | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
        SSL_CTX_clear_mode(c,
                           SSL_MODE_AUTO_RETRY);  // so that a flood of messages without data ends
        SSL_CTX_set_mode(c,
                         SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
                             | SSL_MODE_RELEASE_BUFFERS);
        SSL_CTX_set_read_ahead(c, 1);
        ::SSL_CTX_set_default_read_buffer_len(c, read_buffer);
        SSL_CTX_set_dh_auto(c, 1);
        // The hash of a pre-shared key is SHA-256, and OpenSSL selects the suite before the key.
        const char* const suites = files.psk.empty()
            ? "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
            : "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256";
        // Of TLS 1.2 only what has forward secrecy and an AEAD. A client that offers a suite with a
        // pre-shared key has one, and perhaps no certificate.
        if (SSL_CTX_set_min_proto_version(c, TLS1_2_VERSION) != 1
            || ::SSL_CTX_set_ciphersuites(c, suites) != 1
            || ::SSL_CTX_set_cipher_list(c,
                                         "ECDHE-PSK-CHACHA20-POLY1305:DHE-PSK-AES128-GCM-SHA256:"
                                         "DHE-PSK-AES256-GCM-SHA384:DHE-PSK-CHACHA20-POLY1305:"
                                         "ECDHE+AESGCM:ECDHE+CHACHA20")
                != 1)
            return fails(why, "OpenSSL does not have the ciphers of TLS 1.2 and 1.3");
        return true;
    }

    // --- X.509 ----------------------------------------------------------------------------------

    using bio = owned<::BIO, &::BIO_free>;
    using certificate = owned<::X509, &::X509_free>;

    [[nodiscard]] static bio bio_of(const file_content& file)
    {
        bio made{::BIO_new_mem_buf(file.text.data(), static_cast<int>(file.text.size()))};
        if (!made)
            throw std::bad_alloc{};
        return made;
    }
    /// No terminal is asked for a passphrase.
    static int no_passphrase(char*, int, int, void*) noexcept { return -1; }
    /// Calls `take` with each object that `read` finds; it keeps a reference of its own. *Returns*
    /// how many it has taken.
    template <class Owned, class Read, class Take>
    static std::size_t take_each(const bio& from, Read read, Take take)
    {
        std::size_t count = 0;
        while (const Owned next{read(from.get(), nullptr, &no_passphrase, nullptr)})
            count += take(next.get()) ? 1U : 0U;
        ERR_clear_error();
        return count;
    }

    bool load_certificates(const tls_files& files, failure& why)
    {
        if (files.certificates.empty())
            return true;
        const auto folder = files.certificates + '/';
        return load_chain(folder + "server-cert.pem", why)
            && load_key(folder + "server-key.pem", folder + "server-cert.pem", why)
            && (!files.verify_peer
                || (load_authorities(folder + "ca-cert.pem", why)
                    && load_revoked(folder + "ca-crl.pem", why)));
    }
    bool load_chain(const std::string& path, failure& why)
    {
        const auto file = read_file(path, false, why);
        if (!file)
            return false;
        const auto from = bio_of(*file);
        const certificate own{
            ::PEM_read_bio_X509_AUX(from.get(), nullptr, &no_passphrase, nullptr)};
        if (!own)
            return fails(why, path + ": expected a certificate in PEM");
        if (::SSL_CTX_use_certificate(get(), own.get()) != 1)
            return fails(
                why, path + ": expected a stronger key or signature: " + take_error().message());
        take_each<certificate>(from, &::PEM_read_bio_X509, [this](::X509* next) {
            return SSL_CTX_add1_chain_cert(get(), next) == 1;
        });
        return true;
    }
    bool load_key(const std::string& path, const std::string& of, failure& why)
    {
        const auto file = read_file(path, true, why);
        if (!file)
            return false;
        const auto from = bio_of(*file);
        const owned<::EVP_PKEY, &::EVP_PKEY_free> key{
            ::PEM_read_bio_PrivateKey(from.get(), nullptr, &no_passphrase, nullptr)};
        if (!key)
            return fails(why, path + ": expected a private key in PEM, without a passphrase");
        if (::SSL_CTX_use_PrivateKey(get(), key.get()) != 1
            || ::SSL_CTX_check_private_key(get()) != 1)
            return fails(why, path + ": expected the key of the certificate in " + of);
        return true;
    }
    bool load_authorities(const std::string& path, failure& why)
    {
        const auto file = read_file(path, false, why);
        if (!file)
            return false;
        const auto from = bio_of(*file);
        auto* const store = ::SSL_CTX_get_cert_store(get());
        const auto count =
            take_each<certificate>(from, &::PEM_read_bio_X509, [this, store](::X509* next) {
                return ::X509_STORE_add_cert(store, next) == 1
                    && ::SSL_CTX_add_client_CA(get(), next) == 1;
            });
        if (count == 0)
            return fails(why, path + ": expected the certificate of an authority, in PEM");
        ::SSL_CTX_set_verify(get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
        return true;
    }
    bool load_revoked(const std::string& path, failure& why)
    {
        if (::access(path.c_str(), F_OK) != 0 && errno == ENOENT)
            return true;
        const auto file = read_file(path, false, why);
        if (!file)
            return false;
        const auto from = bio_of(*file);
        auto* const store = ::SSL_CTX_get_cert_store(get());
        const auto count = take_each<owned<::X509_CRL, &::X509_CRL_free>>(
            from, &::PEM_read_bio_X509_CRL,
            [store](::X509_CRL* next) { return ::X509_STORE_add_crl(store, next) == 1; });
        if (count == 0)
            return fails(why, path + ": expected a list of revoked certificates, in PEM");
        ::X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
        return true;
    }

    // --- pre-shared keys ------------------------------------------------------------------------

    bool load_keys(const tls_files& files, failure& why)
    {
        if (files.psk.empty())
            return true;
        const auto file = read_file(files.psk, true, why);
        if (!file)
            return false;
        auto keys = psk_keys::parse(file->text, files.psk, why);
        if (!keys)
            return false;
        keys_.emplace(std::move(*keys));
        SSL_CTX_set_app_data(get(), this);
        ::SSL_CTX_set_psk_server_callback(get(), &key_of);
        return true;
    }
    /// For TLS 1.2 and 1.3. *Returns* the length of the key; 0 refuses the identity.
    static unsigned key_of(::SSL* connection, const char* identity, unsigned char* to,
                           unsigned room) noexcept
    {
        const auto* const self =
            static_cast<const context*>(SSL_CTX_get_app_data(::SSL_get_SSL_CTX(connection)));
        const auto key = self->keys_->find(identity);
        if (key.empty() || key.size() > room)
            return 0;
        try {
            static_cast<connection_data*>(SSL_get_app_data(connection))->psk_identity = identity;
        } catch (...) {  // no memory
            return 0;
        }
        std::memcpy(to, key.data(), key.size());
        return static_cast<unsigned>(key.size());
    }

    /// Room for two records of the largest size, or many small ones, in one call of recv.
    static constexpr std::size_t read_buffer = std::size_t{32} << 10;

    owned<::SSL_CTX, &::SSL_CTX_free> context_;
    std::optional<psk_keys> keys_;
};

}  // namespace tls
}  // namespace nbd
