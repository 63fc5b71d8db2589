// SPDX-License-Identifier: MIT
// Fails each step of a server in turn, an allocation or a call that receives or sends: the first
// one of a scenario, then the second one, until the scenario needs no more.
#pragma once

#include "faults/scenarios.hpp"

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace faults {

/// What a server has reported to its observer.
struct told {
    std::atomic<int> connected{0};
    std::atomic<int> disconnected{0};
};

/// A server that was started. Its destructor ends it, and the threads that run it.
class running {
public:
    virtual ~running() = default;
    running() = default;
    running(const running&) = delete;
    running& operator=(const running&) = delete;
    [[nodiscard]] virtual endpoint where() const = 0;
    /// Returns when every client has left.
    virtual void stop() = 0;
    /// What went wrong outside of any client, or nothing.
    [[nodiscard]] virtual std::string complaint() const { return {}; }
};

/// One composition of a server.
struct composition {
    std::string name;
    /// Makes one. Allocations on the calling thread may fail from `begin()` on.
    std::function<std::unique_ptr<running>(told&, const std::function<void()>& begin)> make;
};

/// Runs all scenarios against it, and fails the test case for every fault that is found.
///
/// Each try has a new server in a child process: a fault that ends or stops that process is
/// one of the faults. The rules: at most one client loses its connection; the next client is
/// served; stop() returns; each client that was announced to the observer is reported to have left;
/// no memory and no descriptor is left.
///
/// By default every third step of a scenario fails. The environment: NBD_FAULTS=N fails every
/// Nth, NBD_FAULTS=1 all of them, and prints a table; NBD_FAULTS_SCENARIO=TEXT runs the scenarios
/// alone whose names contain the text; NBD_FAULTS_AT=N fails the Nth alone, in this process, for a
/// debugger; NBD_FAULTS_PATIENCE=SECONDS is how long a client waits for its answers.
void sweep(const composition& c);

/// Whether every allocation is to fail.
[[nodiscard]] bool full();

}  // namespace faults
