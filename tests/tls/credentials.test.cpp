// SPDX-License-Identifier: MIT
// Files with credentials: what is loaded, and what is refused with which words.
#include "catch.hpp"
#include "tls/certificates.hpp"
#include <nbd/tls/credentials.hpp>

#include <string>
#include <system_error>

#include <sys/stat.h>

using namespace tls_test;
using nbd::failure;

namespace {

/// The text of the failure; empty if there is none.
std::string why_not(const nbd::tls_files& files)
{
    failure why;
    const nbd::tls_credentials made{files, why};
    CHECK(static_cast<bool>(made) == !why);
    return why.text;
}

}  // namespace

TEST_CASE("tls/credentials: a certificate, with and without an authority, and keys")
{
    const authority_and_server pki;
    CHECK(why_not({.certificates = pki.files.path()}).empty());
    CHECK(why_not({.certificates = pki.files.path(), .verify_peer = true}).empty());
    std::filesystem::remove(pki.files.at("ca-cert.pem"));
    CHECK(why_not({.certificates = pki.files.path()}).empty());
    CHECK(why_not({.certificates = pki.files.path(), .verify_peer = true})
          == pki.files.at("ca-cert.pem") + ": No such file or directory");
    const auto keys = pki.files.put("keys.psk", psk_file);
    CHECK(why_not({.psk = keys}).empty());
    CHECK(why_not({.certificates = pki.files.path(), .psk = keys}).empty());
    CHECK_FALSE(nbd::tls_credentials{});
}

TEST_CASE("tls/credentials: the text of an error names the file and what was expected")
{
    const authority_and_server pki;
    const auto cert = pki.files.at("server-cert.pem");
    const auto key = pki.files.at("server-key.pem");
    const nbd::tls_files files{.certificates = pki.files.path(), .verify_peer = true};

    CHECK(why_not({}) == "expected a folder of certificates, or a file of pre-shared keys");
    CHECK(why_not({.psk = "/nowhere", .verify_peer = true})
          == "expected a folder of certificates for the verification of clients");
    CHECK(why_not({.certificates = "/nowhere"})
          == "/nowhere/server-cert.pem: No such file or directory");
    CHECK(why_not({.psk = pki.files.path()}) == pki.files.path() + ": expected a regular file");

    pki.files.put("server-cert.pem", pki.server.key_pem());
    CHECK(why_not(files) == cert + ": expected a certificate in PEM");
    pki.install(pki.server);
    pki.files.put("server-key.pem", pki.server.certificate_pem());
    CHECK(why_not(files) == key + ": expected a private key in PEM, without a passphrase");
    pki.files.put("server-key.pem", pki.server.encrypted_key_pem());
    CHECK(why_not(files) == key + ": expected a private key in PEM, without a passphrase");
    pki.files.put("server-key.pem", pki.client.key_pem());
    CHECK(why_not(files) == key + ": expected the key of the certificate in " + cert);
    pki.install(pki.server);
    pki.files.put("ca-crl.pem", "nonsense");
    CHECK(why_not(files)
          == pki.files.at("ca-crl.pem") + ": expected a list of revoked certificates, in PEM");
    pki.files.put("ca-cert.pem", "nonsense");
    CHECK(why_not(files)
          == pki.files.at("ca-cert.pem") + ": expected the certificate of an authority, in PEM");
    pki.files.put("ca-cert.pem", std::string(2 << 20, '\n'));
    CHECK(why_not(files) == pki.files.at("ca-cert.pem") + ": expected at most a megabyte");

    try {
        const nbd::tls_credentials made{nbd::tls_files{.certificates = "/nowhere"}};
        FAIL("no exception");
    } catch (const std::system_error& e) {
        CHECK(e.code() == std::errc::no_such_file_or_directory);
        CHECK(std::string{e.what()}.starts_with("nbd: /nowhere/server-cert.pem: "));
    }
}

TEST_CASE("tls/credentials: secrets that others can read are refused")
{
    const authority_and_server pki;
    const auto key = pki.files.at("server-key.pem");
    const auto keys = pki.files.put("keys.psk", psk_file);
    for (const auto& secret : {key, keys}) {
        const nbd::tls_files files{.certificates = secret == key ? pki.files.path() : std::string{},
                                   .psk = secret == keys ? keys : std::string{}};
        for (const ::mode_t mode : {0604U, 0620U, 0601U, 0660U}) {
            ::chmod(secret.c_str(), mode);
            CHECK(why_not(files).starts_with(secret + ": it is open to others (mode 0"));
        }
        ::chmod(secret.c_str(), 0400);
        CHECK(why_not(files).empty());
    }
    ::chmod(key.c_str(), 0644);
    CHECK(why_not({.certificates = pki.files.path()})
          == key
              + ": it is open to others (mode 0644); expected 0600, or 0640 if it belongs to "
                "root");

    // The rule itself, for any owner.
    struct ::stat file {};
    const auto unsafe = [&file](::uid_t owner, ::mode_t mode) {
        file.st_uid = owner;
        file.st_mode = S_IFREG | mode;
        return !nbd::tls::unsafe_permissions(file, 1000).empty();
    };
    CHECK_FALSE(unsafe(1000, 0600));
    CHECK_FALSE(unsafe(0, 0640));
    CHECK_FALSE(unsafe(0, 0440));
    CHECK(unsafe(1000, 0640));
    CHECK(unsafe(0, 0660));
    CHECK(unsafe(0, 0644));
    CHECK(unsafe(1001, 0600));
}

TEST_CASE("tls/credentials: loading again replaces what is current, or nothing")
{
    const authority_and_server pki;
    nbd::tls_credentials one{nbd::tls_files{.certificates = pki.files.path()}};
    const auto same = one;
    const auto before = one.current();
    CHECK(before == same.current());
    CHECK_FALSE(one.reload());
    const auto after = same.current();
    CHECK(before != after);
    pki.files.put("server-cert.pem", "nonsense");
    CHECK(one.reload().text == pki.files.at("server-cert.pem") + ": expected a certificate in PEM");
    CHECK(one.current() == after);
    CHECK_FALSE(nbd::tls_credentials{}.reload());
}
