// SPDX-License-Identifier: MIT
#pragma once

#include "grid/client.hpp"
#include "support/sanitizers.hpp"
#include <nbd/server.hpp>

#include <atomic>
#include <string>
#include <type_traits>

#include <unistd.h>

namespace grid {

/// The address of a test's server: a new socket file, or a free port of 127.0.0.1.
template <class Transport>
[[nodiscard]] typename Transport::settings somewhere()
{
    if constexpr (std::is_same_v<Transport, nbd::unix_transport>) {
        static std::atomic<int> count{0};
        return {.path = "/tmp/nbd-grid-" + std::to_string(::getpid()) + '-'
                    + std::to_string(++count) + ".sock"};
    } else {
        return {.port = 0};
    }
}

/// Limits for tests that wait for them to pass.
[[nodiscard]] inline nbd::settings impatient()
{
#if NBD_TEST_ASAN || NBD_TEST_TSAN
    constexpr std::chrono::milliseconds soon{2000};  // a handshake of a good client ends in time
#else
    constexpr std::chrono::milliseconds soon{800};
#endif
    nbd::settings s;
    s.handshake_deadline = soon;
    s.progress_timeout = soon;
    s.send_timeout = soon;
    s.stop_grace = soon;
    return s;
}

/// An observer that counts requests, for tests that wait for them.
struct request_counter {
    std::atomic<int>* count = nullptr;
    void at_request(const nbd::client&, const nbd::protocol::request&)
    {
        ++*count;
        count->notify_all();
    }
};

template <class Server>
[[nodiscard]] raw_client connect(const Server& server)
{
    return raw_client{server.local_endpoint()};
}

}  // namespace grid
