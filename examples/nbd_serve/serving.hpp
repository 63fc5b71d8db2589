// SPDX-License-Identifier: MIT
// The life of a server of nbd-serve, for any kind of disk and policy.
#pragma once

#include "access.hpp"
#include "activation.hpp"
#include "arguments.hpp"
#include "attaching.hpp"
#include "captive.hpp"
#include "events.hpp"
#include "listening.hpp"
#include "log.hpp"
#include "serve.hpp"
#include "system.hpp"
#include "tls.hpp"
#include <nbd/basic_server.hpp>
#include <nbd/threading/per_client_threads.hpp>
#include <nbd/threading/strand_pool.hpp>

#include <cerrno>
#include <concepts>
#include <cstddef>
#include <exception>
#include <iostream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

/// The text of a library error about `disk`, without the library's name and without a second path.
inline std::string describe(const disk_arguments& disk, const std::exception& error)
{
    using namespace std::string_literals;
    std::string_view text = error.what();
    for (const std::string& known : {"nbd: "s, disk.path + ": ", disk.text + ": "})
        if (text.starts_with(known))
            text.remove_prefix(known.size());
    return disk.text + ": " + std::string{text};
}
/// The option that may help after an error.
inline std::string advice(const disk_arguments& disk, const std::error_code& error)
{
    if (error == std::errc::no_such_file_or_directory && disk.in_file() && !disk.file.create
        && !disk.file.read_only)
        return "; --create SIZE makes a new file";
    if (!disk.file.read_only
        && (error == std::errc::permission_denied || error == std::errc::read_only_file_system))
        return "; --read-only opens it for reading";
    if (error == std::errc::device_or_resource_busy)
        return "; --lock shared shares it with programs that share it too";
    return {};
}

/// Makes the backend of a disk and adds it to `exports`.
template <class Backend>
void add_export(nbd::export_set<Backend>& exports, const arguments& a, const disk_arguments& disk,
                nbd::export_settings e)
{
    try {
        if constexpr (std::constructible_from<Backend, std::string, nbd::file_settings>)
            exports.emplace(a.name, std::move(e), disk.path, disk.file);
        else if constexpr (std::constructible_from<Backend, nbd::rbd_settings>)
            exports.emplace(a.name, std::move(e), disk.rbd);
        else
            exports.emplace(a.name, std::move(e), disk.size);
    } catch (const std::system_error& error) {
        if (disk.kind == "mem" || disk.kind == "null")
            throw std::runtime_error{disk.text
                                     + ": expected a size that fits in a process's memory: "
                                     + error.code().message()};
        throw std::runtime_error{describe(disk, error) + advice(disk, error.code())};
    } catch (const std::exception& error) {
        throw usage_error{describe(disk, error)};
    }
    if (disk.in_file() && disk.file.lock != nbd::file_lock::off && !look_at(disk.path).locks)
        std::cerr << "nbd-serve: " << disk.text
                  << ": the system does not lock this file against other programs\n";
}

/// `threads`: 0 is the policy's default.
template <class Policy>
Policy make_policy([[maybe_unused]] std::size_t threads)
{
    if constexpr (std::constructible_from<Policy, std::size_t>)
        if (threads != 0)
            return Policy{threads};
    return Policy{};
}

/// Starts a server on the addresses of the arguments. `options()`: what it is made of, but for the
/// addresses. *Returns* its URIs.
template <class Server, class Options>
std::vector<std::string> start(std::optional<Server>& server, const arguments& a,
                               const tls_setup& tls, Options options)
{
    for (int tries = 1;; ++tries) {
        const listening at{a, tls};
        typename Server::options with = options();
        with.listen = at.settings();
        server.emplace(std::move(with));
        try {
            if (at.sockets().empty())
                server->start();
            else
                server->start_on(at.sockets());
        } catch (const std::system_error& error) {
            if (error.code().value() == EADDRINUSE && at.port_was_chosen() && tries < 20)
                continue;
            std::string text = error.what();
            if (constexpr std::string_view name = "nbd: "; text.starts_with(name))
                text.erase(0, name.size());
            throw std::runtime_error{text + limit_of(error.code())};
        }
        return at.uris_of_arguments(server->uris(a.name));
    }
}

/// A serve_function for one policy.
template <class Backend, class Policy>
int serve(const arguments& a, const disk_arguments& disk, nbd::export_settings e)
{
    using server_type = nbd::server<every_transport, Backend, Policy, client_log>;
    auto tls = set_up(a.tls);
    const auto authorise = authorise_by(a.access, a.tls);
    events program{[&tls] { reload(tls); }};
    std::optional<log_output> log;
    if (a.verbose)
        log.emplace();
    const auto exports = std::make_shared<nbd::export_set<Backend>>();
    add_export(*exports, a, disk, std::move(e));

    const auto options = [&] {
        return typename server_type::options{.exports = exports,
                                             .settings = a.limits,
                                             .policy = make_policy<Policy>(a.threads),
                                             .observer = {log ? &*log : nullptr},
                                             .authorise = authorise};
    };
    std::optional<server_type> server;
    const auto uris = a.listens() ? start(server, a, tls, options) : std::vector<std::string>{};
    attached_disk<server_type> attached;
    std::string device;
    if (!a.attach.device.empty())
        device = program.during(
            [&](std::stop_token stop) { return attached.attach(a, disk, options(), stop); });
    if (a.run.empty()) {
        for (const auto& uri : uris)
            std::cout << "serving " << uri << '\n';
        if (!device.empty())
            std::cout << "attached " << device << '\n';
        std::cout.flush();
    } else {  // stdout belongs to the command
        auto variables = variables_for(uris.empty() ? "" : uris.front(), a.unix_path, a.name);
        if (!device.empty())
            variables.emplace_back("device", device);
        program.start(a.run, variables);
    }
    tell_service_manager("READY=1\nSTATUS=serving "
                         + (!uris.empty()        ? uris.front()
                                : device.empty() ? "a client"
                                                 : device));
    // With --stdio, the server ends with its client.
    std::thread end_of_server;
    if (server)
        end_of_server = std::thread{[&] {
            server->wait();
            program.end();
        }};
    const auto stop = [&](std::thread* waits) {
        if (!server)
            return;
        server->stop();
        waits->join();
    };
    std::unique_ptr<std::thread, decltype(stop)> stopped{&end_of_server, stop};
    program.run();
    tell_service_manager("STOPPING=1");
    attached.detach();
    stopped.reset();
    server.reset();
    events::block_signals();
    return program.status();
}

/// A serve_function.
template <class Backend>
int serve(const arguments& a, const disk_arguments& disk, nbd::export_settings e)
{
    if (a.policy == "pool")
        return serve<Backend, nbd::strand_pool>(a, disk, std::move(e));
    return serve<Backend, nbd::per_client_threads>(a, disk, std::move(e));
}
