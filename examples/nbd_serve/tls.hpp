// SPDX-License-Identifier: MIT
// TLS of nbd-serve: --tls and the options that go with it.
#pragma once

#include "arguments.hpp"
#include <nbd/transport/tcp_transport.hpp>
#ifdef NBD_SERVE_TLS
#include <nbd/transport/tls_transport.hpp>
#endif

#include <iostream>
#include <stdexcept>
#include <string>
#include <utility>

#ifdef NBD_SERVE_TLS

template <class Transport>
using secured = nbd::tls_transport<Transport>;
using tls_setup = nbd::tls_transport<nbd::tcp_transport>::settings;

/// Checks the options and loads the credentials.
inline tls_setup set_up(const tls_arguments& a)
{
    const bool has_files = !a.certificates.empty() || !a.psk.empty();
    if (a.mode == "off") {
        if (has_files || a.verify_peer)
            throw usage_error{"--tls: expected on or require together with --tls-certificates, "
                              "--tls-psk and --tls-verify-peer, but got off"};
        return {.over = {}, .mode = nbd::tls_mode::none};
    }
    if (!has_files)
        throw usage_error{"--tls " + a.mode
                          + ": expected --tls-certificates DIR, --tls-psk FILE or both"};
    if (a.verify_peer && a.certificates.empty())
        throw usage_error{"--tls-verify-peer: expected together with --tls-certificates DIR"};
    nbd::failure why;
    nbd::tls_credentials loaded{
        {.certificates = a.certificates, .psk = a.psk, .verify_peer = a.verify_peer}, why};
    if (why)
        throw std::runtime_error{why.text};
    return {.over = {},
            .mode = a.mode == "on" ? nbd::tls_mode::selective : nbd::tls_mode::forced,
            .credentials = loaded};
}
/// *Returns* the settings of a transport with TLS.
template <class Transport>
typename secured<Transport>::settings with_tls(typename Transport::settings at,
                                               const tls_setup& setup)
{
    return {.over = std::move(at), .mode = setup.mode, .credentials = setup.credentials};
}
/// Loads the credentials again, or says why not.
inline void reload(tls_setup& setup)
{
    if (const auto why = setup.credentials.reload())
        std::cerr << "nbd-serve: " << why.text << "; the earlier credentials stay in use\n";
}
inline bool is_off(const tls_setup& setup)
{
    return setup.mode == nbd::tls_mode::none;
}

#else

template <class Transport>
using secured = Transport;
struct tls_setup {};

inline tls_setup set_up(const tls_arguments& a)
{
    if (a.mode != "off" || !a.certificates.empty() || !a.psk.empty() || a.verify_peer)
        throw usage_error{"--tls " + a.mode + ": this nbd-serve was built without OpenSSL"};
    return {};
}
template <class Transport>
typename Transport::settings with_tls(typename Transport::settings at, const tls_setup&)
{
    return at;
}
inline void reload(tls_setup&) {}
inline bool is_off(const tls_setup&)
{
    return true;
}

#endif
