// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <system_error>

#include <openssl/err.h>
#include <openssl/x509_vfy.h>

// Outside namespace nbd, as nbd_error_category is.
class nbd_tls_error_category final : public std::error_category {
public:
    [[nodiscard]] const char* name() const noexcept override { return "nbd.tls"; }
    [[nodiscard]] std::string message(int value) const override
    {
        if (value < 0)
            return std::string{"the certificate of the client was refused: "}
            + X509_verify_cert_error_string(-value);
        const char* const reason = ERR_reason_error_string(static_cast<unsigned long>(value));
        return std::string{"TLS failed: "} + (reason == nullptr ? "unknown error" : reason);
    }
};

namespace nbd::tls {

/// The category of errors in TLS, named "nbd.tls". A positive value is an error of OpenSSL, as
/// `ERR_get_error` returns it. A negative one is why a certificate of a client was refused, as
/// `SSL_get_verify_result` returns it.
[[nodiscard]] inline const std::error_category& error_category() noexcept
{
    static const nbd_tls_error_category category;
    return category;
}

/// *Returns* the last error in OpenSSL's queue of this thread, and empties the queue; EPROTO if it
/// is empty or is not about TLS. Earlier errors have the details of the last one.
[[nodiscard]] inline std::error_code take_error() noexcept
{
    const auto last = ERR_peek_last_error();
    ERR_clear_error();
    if (last == 0 || ERR_SYSTEM_ERROR(last))
        return std::make_error_code(std::errc::protocol_error);
    return {static_cast<int>(last), error_category()};
}

}  // namespace nbd::tls
