// SPDX-License-Identifier: MIT
// nbd-serve --attach: the disk as a block device of the kernel.
#pragma once

#include "arguments.hpp"
#include "system.hpp"
#include "tls.hpp"
#include <nbd/transport/unix_transport.hpp>
#ifdef NBD_SERVE_KERNEL
#include <nbd/kernel/attach.hpp>
#endif

#include <filesystem>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <utility>

#include <sys/prctl.h>

/// *Returns* the name by which another nbd-serve takes the device over after this one has died.
/// What is in memory dies with it, and has none.
inline std::string identifier_of(const disk_arguments& disk)
{
    if (!disk.in_file())
        return {};
    std::error_code ignored;
    const auto path = std::filesystem::weakly_canonical(disk.path, ignored);
    return "nbd-serve:" + (ignored ? disk.path : path.string());
}

#ifdef NBD_SERVE_KERNEL
/// The device, and a server for it: a server for other clients may have TLS and limits.
template <class Server>
class attached_disk {
public:
    /// `with`: what the server is made of. `stop` ends a wait for the device. *Returns* its path.
    /// *Errors*: usage_error; std::runtime_error.
    std::string attach(const arguments& a, const disk_arguments& disk,
                       typename Server::options with, std::stop_token stop)
    {
        // The kernel may write to the disk in order to get memory, so serving it must not make the
        // kernel wait for that. Threads that are started later inherit this.
        ::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
        with.listen.addresses.emplace_back(
            with_tls<nbd::unix_transport>({}, set_up(tls_arguments{})));
        with.settings.max_connections = 0;
        with.settings.idle_timeout = {};
        with.authorise = {};
        server_.emplace(std::move(with));
        server_->start_without_listening();
        std::error_code failed;
        device_ = nbd::attach(*server_,
                              {.device = a.attach.device == "any" ? "" : a.attach.device,
                               .export_name = a.name,
                               .connections = a.attach.connections,
                               .timeout = a.attach.timeout,
                               .dead_connection_timeout = a.attach.dead_timeout,
                               .identifier = identifier_of(disk),
                               .wait_for_device = a.attach.wait,
                               .stop = std::move(stop)},
                              failed);
        if (failed == nbd::kernel::errc::bad_device_name)
            throw usage_error{"--attach: expected /dev/nbdN or any, but got \"" + a.attach.device
                              + '"'};
        if (failed)
            throw std::runtime_error{"--attach " + a.attach.device + ": " + text_of(failed)
                                     + advice_for(failed)};
        return device_.path();
    }
    /// Detaches the device, if there is one, and tells the user what is wrong.
    void detach()
    {
        if (!device_)
            return;
        const auto path = device_.path();
        if (const auto failed = device_.detach())
            std::cerr << "nbd-serve: " << path << ": " << failed.message() << '\n';
    }

private:
    [[nodiscard]] static std::string advice_for(const std::error_code& failed)
    {
        if (failed == nbd::kernel::errc::no_module)
            return "; \"modprobe nbd\" loads it";
        if (failed == nbd::kernel::errc::device_busy)
            return "; --attach-wait waits for it, and --attach any takes another one";
        return {};
    }

    std::optional<Server> server_;
    nbd::attached device_;  // detached before its server stops
};
#else
template <class Server>
struct attached_disk {
    std::string attach(const arguments&, const disk_arguments&, typename Server::options,
                       std::stop_token)
    {
        throw usage_error{"--attach: this nbd-serve was built without libnl"};
    }
    void detach() {}
};
#endif
