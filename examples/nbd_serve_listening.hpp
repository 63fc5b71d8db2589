// SPDX-License-Identifier: MIT
// The servers of nbd-serve: one for --unix, and one for each address of --tcp.
#pragma once

#include "nbd_serve_arguments.hpp"
#include "nbd_serve_log.hpp"
#include "nbd_serve_system.hpp"
#include "nbd_serve_tls.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <list>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

/// *Returns* all addresses of a host.
inline std::vector<nbd::tcp_transport::settings>
addresses_of(const std::string& argument, const nbd::tcp_transport::settings& host)
{
    using boost::asio::ip::tcp;
    boost::asio::io_context context;
    boost::system::error_code failed;
    std::vector<nbd::tcp_transport::settings> all;
    for (const auto& entry : tcp::resolver{context}.resolve(
             host.address, std::to_string(host.port),
             tcp::resolver::passive | tcp::resolver::numeric_service, failed)) {
        auto at = host;
        at.address = entry.endpoint().address().to_string();
        if (std::none_of(all.begin(), all.end(),
                         [&](const auto& known) { return known.address == at.address; }))
            all.push_back(std::move(at));
    }
    if (failed)
        throw std::runtime_error{argument + ": " + failed.message()};
    return all;
}

/// Servers of one export set.
template <class Backend, class Policy>
class servers {
    template <class Transport>
    using server = nbd::server<Transport, Backend, Policy, client_log>;

public:
    servers(std::shared_ptr<nbd::export_set<Backend>> exports, nbd::settings limits,
            std::function<Policy()> policy, client_log log, tls_setup tls,
            nbd::authorisation authorise)
        : exports_{std::move(exports)}, limits_{limits}, policy_{std::move(policy)}, log_{log},
          tls_{std::move(tls)}, authorise_{std::move(authorise)}
    {
    }

    /// *Returns* the URI of an export.
    std::string listen_unix(const std::string& path, const std::string& name)
    {
        if (const auto failed =
                start(on_unix_, with_tls<nbd::unix_transport>({.path = path}, tls_)))
            throw std::runtime_error{"--unix " + path + ": " + text_of(failed)};
        return on_unix_.back().uri(name);
    }
    std::string listen_tcp(const std::string& text, const std::string& name)
    {
        const auto argument = "--tcp " + text;
        const auto host = parse_tcp(text);
        const auto addresses = addresses_of(argument, host);
        // A port that is free at the first address may be in use at another.
        auto failed = start_tcp(addresses);
        for (int tries = 1; failed.value() == EADDRINUSE && host.port == 0 && tries < 20; ++tries)
            failed = start_tcp(addresses);
        if (failed)
            throw std::runtime_error{argument + ": " + text_of(failed)};
        const auto port = on_tcp_.front().local_endpoint().port();
        return addresses.size() == 1
            ? on_tcp_.front().uri(name)
            : nbd::protocol::tcp_uri(host.address + ':' + std::to_string(port), name,
                                     is_off(tls_) ? "nbd" : "nbds");
    }

private:
    template <class Servers, class Settings>
    std::error_code start(Servers& all, const Settings& listen_at)
    {
        using options = typename Servers::value_type::options;
        all.emplace_back(options{.listen = listen_at,
                                 .exports = exports_,
                                 .settings = limits_,
                                 .policy = policy_(),
                                 .observer = log_,
                                 .authorise = authorise_});
        std::error_code error;
        all.back().start(error);
        if (error)
            all.pop_back();
        return error;
    }
    /// Listens on all addresses that this machine has, on the same port.
    std::error_code start_tcp(const std::vector<nbd::tcp_transport::settings>& addresses)
    {
        std::error_code absent;
        for (auto at : addresses) {
            if (!on_tcp_.empty())
                at.port = on_tcp_.front().local_endpoint().port();
            const auto failed = start(on_tcp_, with_tls<nbd::tcp_transport>(at, tls_));
            if (failed.value() == EADDRNOTAVAIL || failed.value() == EAFNOSUPPORT) {
                absent = failed;
            } else if (failed) {
                on_tcp_.clear();
                return failed;
            }
        }
        return on_tcp_.empty() ? absent : std::error_code{};
    }

    std::shared_ptr<nbd::export_set<Backend>> exports_;
    nbd::settings limits_;
    std::function<Policy()> policy_;
    client_log log_;
    tls_setup tls_;
    nbd::authorisation authorise_;
    std::list<server<secured<nbd::unix_transport>>> on_unix_;
    std::list<server<secured<nbd::tcp_transport>>> on_tcp_;
};
