// SPDX-License-Identifier: MIT
// Certificates for tests, made on the spot.
#pragma once

#include "catch.hpp"
#include <nbd/tls/context.hpp>

#include <atomic>
#include <cstddef>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

namespace tls_test {

using nbd::tls::owned;

template <class T>
T checked(T result)
{
    if (!result)
        throw std::runtime_error{"a function of OpenSSL failed"};
    return result;
}

/// A certificate and its key.
struct identity {
    std::shared_ptr<::EVP_PKEY> key{checked(EVP_EC_gen("P-256")), &::EVP_PKEY_free};
    std::shared_ptr<::X509> certificate{checked(::X509_new()), &::X509_free};

    struct about {
        std::string name;            ///< common name
        std::string alternatives{};  ///< subjectAltName as OpenSSL's configuration writes it
        long begins = -3600;         ///< seconds from now
        long ends = 3600;
        bool is_authority = false;  ///< it may sign others, as one that signs itself
    };
    /// Signed by `by`; null: an authority that signs itself.
    identity(const about& a, const identity* by)
    {
        static std::atomic<long> serial{1};
        auto* const c = certificate.get();
        ::X509_set_version(c, 2);
        ::ASN1_INTEGER_set(::X509_get_serialNumber(c), serial++);
        ::X509_gmtime_adj(X509_getm_notBefore(c), a.begins);
        ::X509_gmtime_adj(X509_getm_notAfter(c), a.ends);
        auto* const subject = ::X509_get_subject_name(c);
        ::X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_UTF8,
                                     reinterpret_cast<const unsigned char*>("nbd, tests"), -1, -1,
                                     0);
        ::X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
                                     reinterpret_cast<const unsigned char*>(a.name.c_str()), -1, -1,
                                     0);
        ::X509_set_issuer_name(
            c, by == nullptr ? subject : ::X509_get_subject_name(by->certificate.get()));
        ::X509_set_pubkey(c, key.get());
        const bool signs = by == nullptr || a.is_authority;
        extend(NID_basic_constraints, signs ? "critical,CA:TRUE" : "critical,CA:FALSE");
        if (signs)
            extend(NID_key_usage, "critical,keyCertSign,cRLSign");
        if (!a.alternatives.empty())
            extend(NID_subject_alt_name, a.alternatives.c_str());
        checked(::X509_sign(c, by == nullptr ? key.get() : by->key.get(), ::EVP_sha256()));
    }

    [[nodiscard]] std::string certificate_pem() const
    {
        return pem([this](::BIO* to) { ::PEM_write_bio_X509(to, certificate.get()); });
    }
    [[nodiscard]] std::string key_pem() const
    {
        return pem([this](::BIO* to) {
            ::PEM_write_bio_PKCS8PrivateKey(to, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
        });
    }
    [[nodiscard]] std::string encrypted_key_pem() const
    {
        return pem([this](::BIO* to) {
            ::PEM_write_bio_PKCS8PrivateKey(to, key.get(), ::EVP_aes_128_cbc(), "pass", 4, nullptr,
                                            nullptr);
        });
    }
    /// A list of revoked certificates that this authority signs.
    [[nodiscard]] std::string revocation_pem(const identity& revoked) const
    {
        const owned<::X509_CRL, &::X509_CRL_free> list{checked(::X509_CRL_new())};
        ::X509_CRL_set_version(list.get(), 1);
        ::X509_CRL_set_issuer_name(list.get(), ::X509_get_subject_name(certificate.get()));
        const owned<::ASN1_TIME, &::ASN1_TIME_free> now{::X509_gmtime_adj(nullptr, -60)};
        const owned<::ASN1_TIME, &::ASN1_TIME_free> later{::X509_gmtime_adj(nullptr, 3600)};
        ::X509_CRL_set1_lastUpdate(list.get(), now.get());
        ::X509_CRL_set1_nextUpdate(list.get(), later.get());
        auto* const entry = ::X509_REVOKED_new();
        ::X509_REVOKED_set_serialNumber(entry, ::X509_get_serialNumber(revoked.certificate.get()));
        ::X509_REVOKED_set_revocationDate(entry, now.get());
        ::X509_CRL_add0_revoked(list.get(), entry);
        checked(::X509_CRL_sign(list.get(), key.get(), ::EVP_sha256()));
        return pem([&list](::BIO* to) { ::PEM_write_bio_X509_CRL(to, list.get()); });
    }

private:
    void extend(int kind, const char* value)
    {
        const owned<::X509_EXTENSION, &::X509_EXTENSION_free> extension{
            checked(::X509V3_EXT_conf_nid(nullptr, nullptr, kind, value))};
        ::X509_add_ext(certificate.get(), extension.get(), -1);
    }
    template <class Write>
    [[nodiscard]] static std::string pem(Write write)
    {
        const owned<::BIO, &::BIO_free> to{checked(::BIO_new(::BIO_s_mem()))};
        write(to.get());
        char* text = nullptr;
        const auto n = BIO_get_mem_data(to.get(), &text);
        return {text, static_cast<std::size_t>(n)};
    }
};

/// A temporary folder.
class folder {
public:
    folder()
    {
        static std::atomic<int> count{0};
        path_ = std::filesystem::temp_directory_path()
            / ("nbd-tls-" + std::to_string(::getpid()) + '-' + std::to_string(++count));
        std::filesystem::create_directory(path_);
    }
    folder(const folder&) = delete;
    folder& operator=(const folder&) = delete;
    ~folder()
    {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    [[nodiscard]] std::string at(const std::string& name) const { return (path_ / name).string(); }
    [[nodiscard]] std::string path() const { return path_.string(); }
    std::string put(const std::string& name, const std::string& content, ::mode_t mode = 0600) const
    {
        std::ofstream{at(name)} << content;
        ::chmod(at(name).c_str(), mode);
        return at(name);
    }

private:
    std::filesystem::path path_;
};

/// An authority, and what a server has.
struct authority_and_server {
    identity authority{{.name = "authority"}, nullptr};
    identity server{{.name = "server", .alternatives = "DNS:localhost,IP:127.0.0.1"}, &authority};
    identity client{{.name = "client",
                     .alternatives = "DNS:client.example,email:c@example.org,IP:10.0.0.1,IP:::1,"
                                     "URI:urn:x:y"},
                    &authority};
    folder files;

    authority_and_server()
    {
        files.put("ca-cert.pem", authority.certificate_pem(), 0644);
        install(server);
    }
    void install(const identity& s) const
    {
        files.put("server-cert.pem", s.certificate_pem(), 0644);
        files.put("server-key.pem", s.key_pem());
    }
};

inline const std::string psk_of_alice(64, 'a');
inline const std::string psk_of_bob = std::string(32, '1') + std::string(32, 'F');
inline const std::string psk_file = "alice:" + psk_of_alice + "\nbob:" + psk_of_bob + "\n";

}  // namespace tls_test
