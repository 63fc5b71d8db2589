// SPDX-License-Identifier: MIT
#include "listening.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <stdexcept>
#include <utility>

#include <sys/socket.h>

namespace {

using boost::asio::ip::tcp;

/// *Returns* all addresses of a host.
std::vector<tcp::endpoint> addresses_of(const std::string& argument,
                                        const nbd::tcp_transport::settings& host)
{
    boost::asio::io_context context;
    boost::system::error_code failed;
    std::vector<tcp::endpoint> all;
    for (const auto& entry : tcp::resolver{context}.resolve(
             host.address, std::to_string(host.port),
             tcp::resolver::passive | tcp::resolver::numeric_service, failed))
        if (std::find(all.begin(), all.end(), entry.endpoint()) == all.end())
            all.push_back(entry.endpoint());
    if (failed)
        throw std::runtime_error{argument + ": " + failed.message()};
    return all;
}

/// *Returns* a free port of an address of this machine; 0 if the machine does not have the address.
std::uint16_t free_port(const tcp::endpoint& at)
{
    boost::asio::io_context context;
    tcp::acceptor probe{context};
    boost::system::error_code failed;
    probe.open(at.protocol(), failed);
    if (!failed)
        probe.bind({at.address(), 0}, failed);
    if (failed)
        return 0;
    return probe.local_endpoint(failed).port();
}

}  // namespace

listening::listening(const arguments& a, const tls_setup& tls)
{
    auto& all = settings_.addresses;
    if (!a.unix_path.empty())
        all.emplace_back(with_tls<nbd::unix_transport>({.path = parse_unix(a.unix_path)}, tls));
    if (!a.tcp.empty())
        add_tcp(a, tls);
    if (!a.vsock.empty())
        all.emplace_back(with_tls<nbd::vsock_transport>(parse_vsock(a.vsock), tls));
    if (a.stdio)
        all.emplace_back(with_tls<nbd::fd_transport>({}, tls));
    for (const auto& s : a.passed) {
        if (s.listens)
            sockets_.push_back(s.descriptor);
        if (!s.listens)
            all.emplace_back(
                with_tls<nbd::fd_transport>({.in = s.descriptor, .out = s.descriptor}, tls));
        else if (s.family == AF_UNIX)
            all.emplace_back(with_tls<nbd::unix_transport>({}, tls));
        else if (s.family == AF_VSOCK)
            all.emplace_back(with_tls<nbd::vsock_transport>({}, tls));
        else
            all.emplace_back(with_tls<nbd::tcp_transport>({.user_timeout = a.user_timeout}, tls));
    }
}

void listening::add_tcp(const arguments& a, const tls_setup& tls)
{
    auto at = parse_tcp(a.tcp);
    at.user_timeout = a.user_timeout;
    const auto host = at.address;
    auto addresses = addresses_of("--tcp " + a.tcp, at);
    if (addresses.size() > 1) {
        // Addresses that this machine does not have are left out, unless it has none of them.
        const auto first = addresses.front();
        std::erase_if(addresses, [](const auto& one) { return free_port(one) == 0; });
        if (addresses.empty())
            addresses.push_back(first);
    }
    if (addresses.size() > 1 && at.port == 0) {
        at.port = free_port(addresses.front());
        chosen_ = true;
    }
    first_tcp_ = settings_.addresses.size();
    count_tcp_ = addresses.size();
    for (const auto& one : addresses) {
        at.address = one.address().to_string();
        settings_.addresses.emplace_back(with_tls<nbd::tcp_transport>(at, tls));
    }
    if (count_tcp_ > 1)
        uri_of_host_ = nbd::protocol::tcp_uri(host + ':' + std::to_string(at.port), a.name,
                                              is_off(tls) ? "nbd" : "nbds");
}

std::vector<std::string> listening::uris_of_arguments(std::vector<std::string> uris) const
{
    if (count_tcp_ > 1) {
        const auto first = uris.begin() + static_cast<std::ptrdiff_t>(first_tcp_);
        *first = uri_of_host_;
        uris.erase(first + 1, first + static_cast<std::ptrdiff_t>(count_tcp_));
    }
    return uris;
}
