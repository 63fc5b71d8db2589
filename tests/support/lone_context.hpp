// SPDX-License-Identifier: MIT
// The context that a session shares with its server, for tests without a server.
#pragma once

#include <nbd/session/context.hpp>
#include <nbd/session/deadline.hpp>
#include <nbd/settings.hpp>

#include <atomic>

namespace nbd_test {

template <class Observer>
struct lone_context {
    nbd::settings limits;
    Observer observer;
    nbd::session::ticker clock;
    std::atomic<bool> stopping{false};
    nbd::session::memory_budget memory{limits};
    nbd::session::context<Observer> context{limits,
                                            observer,
                                            {.id = 1, .peer = "script"},
                                            nbd::session::deadline{clock},
                                            nbd::session::deadline{clock},
                                            stopping,
                                            {memory}};
};

}  // namespace nbd_test
