// SPDX-License-Identifier: MIT
// Where nbd-serve listens: --unix, --tcp, --vsock and --stdio.
#pragma once

#include "arguments.hpp"
#include "tls.hpp"
#include <nbd/transport/any_of.hpp>
#include <nbd/transport/fd_transport.hpp>
#include <nbd/transport/tcp_transport.hpp>
#include <nbd/transport/unix_transport.hpp>
#include <nbd/transport/vsock_transport.hpp>

#include <cstddef>
#include <string>
#include <vector>

using every_transport = nbd::any_of<secured<nbd::unix_transport>, secured<nbd::tcp_transport>,
                                    secured<nbd::vsock_transport>, secured<nbd::fd_transport>>;

/// The addresses of all arguments. --tcp with a host name may be several addresses, on one port.
class listening {
public:
    /// *Errors*: std::runtime_error for a host name that cannot be resolved.
    listening(const arguments& a, const tls_setup& tls);

    [[nodiscard]] const every_transport::settings& settings() const noexcept { return settings_; }
    /// *Returns* the listening sockets of a service manager, which take the place of the addresses.
    [[nodiscard]] const std::vector<int>& sockets() const noexcept { return sockets_; }
    /// The port was chosen from those that were free, and may be in use by now.
    [[nodiscard]] bool port_was_chosen() const noexcept { return chosen_; }
    /// *Returns* one URI for each argument. `uris`: one for each address.
    [[nodiscard]] std::vector<std::string> uris_of_arguments(std::vector<std::string> uris) const;

private:
    void add_tcp(const arguments& a, const tls_setup& tls);

    every_transport::settings settings_;
    std::vector<int> sockets_;
    bool chosen_ = false;
    std::size_t first_tcp_ = 0;  ///< the address of --tcp
    std::size_t count_tcp_ = 0;  ///< the number of addresses of --tcp
    std::string uri_of_host_{};  ///< for several addresses
};
