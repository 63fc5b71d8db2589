// SPDX-License-Identifier: MIT
#include "activation.hpp"

#include <nbd/transport/activation.hpp>

#include <algorithm>
#include <iostream>
#include <string>

#include <sys/socket.h>

namespace {

/// Whether there is a transport for a socket.
bool fits(const nbd::activation::passed_socket& s)
{
    int type = 0;
    ::socklen_t size = sizeof(type);
    return (s.family == AF_UNIX || s.family == AF_INET || s.family == AF_INET6
            || s.family == AF_VSOCK)
        && ::getsockopt(s.descriptor.get(), SOL_SOCKET, SO_TYPE, &type, &size) == 0
        && type == SOCK_STREAM;
}

}  // namespace

std::vector<passed_socket> take_sockets(bool demanded, const char* instead)
{
    nbd::failure why;
    auto all = nbd::activation::take_sockets(why);
    if (why)
        throw usage_error{why.text};
    if (all.empty() && demanded)
        throw usage_error{"--socket-activation: expected sockets of a service manager, but "
                          "LISTEN_PID and LISTEN_FDS are not set for this process"};
    if (!all.empty() && instead != nullptr)
        throw usage_error{std::string{instead}
                          + ": expected nothing, because a service manager has passed sockets "
                            "(LISTEN_FDS)"};
    for (const auto& s : all)
        if (!fits(s))
            throw usage_error{"LISTEN_FDS: expected stream sockets (UNIX, TCP or vsock), but "
                              "descriptor "
                              + std::to_string(s.descriptor.get()) + " is none"};
    const auto connected =
        std::count_if(all.begin(), all.end(), [](auto& s) { return !s.listens; });
    if (connected != 0 && all.size() > 1)
        throw usage_error{"LISTEN_FDS: expected listening sockets or one connection, but got "
                          + std::to_string(connected) + " of " + std::to_string(all.size())
                          + " connected"};
    std::vector<passed_socket> taken;
    for (auto& s : all)
        taken.push_back(
            {.descriptor = s.descriptor.release(), .family = s.family, .listens = s.listens});
    return taken;
}

void tell_service_manager(std::string_view state)
{
    if (const auto failed = nbd::activation::notify(state))
        std::cerr << "nbd-serve: NOTIFY_SOCKET: " << failed.message() << '\n';
}
