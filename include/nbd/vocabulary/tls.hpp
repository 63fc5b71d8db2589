// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

namespace nbd {

/// Which clients must use TLS (points 70 to 74). Without nbd::tls_transport it is `none`.
enum class tls_mode {
    none,       ///< STARTTLS is refused
    forced,     ///< a client must start TLS before anything else
    selective,  ///< a client must start TLS for exports with export_settings::tls_only
};

/// What is known of a client that has started TLS.
struct tls_info {
    std::string version{};       ///< "TLSv1.3" or "TLSv1.2"
    std::string cipher{};        ///< the name of the cipher suite: "TLS_AES_256_GCM_SHA384"
    std::string psk_identity{};  ///< empty unless the client has proved that it knows the key

    /// Of the client's certificate, which was verified; empty without one.
    std::string subject{};             ///< as RFC 2253 writes it: "CN=backup,O=Example"
    std::vector<std::string> names{};  ///< subject alternative names: "DNS:a.example", "IP:::1"
    std::string fingerprint{};         ///< SHA-256 of the certificate, 64 hexadecimal digits
};

/// Whether two clients have proved the same identity: that of their key, or the subject of their
/// certificates, or the certificate itself if it has no subject; see settings.places_per_identity.
[[nodiscard]] inline bool same_identity(const tls_info& a, const tls_info& b) noexcept
{
    if (!a.psk_identity.empty() || !b.psk_identity.empty())
        return a.psk_identity == b.psk_identity;
    if (!a.subject.empty() || !b.subject.empty())
        return a.subject == b.subject;
    return !a.fingerprint.empty() && a.fingerprint == b.fingerprint;
}

}  // namespace nbd
