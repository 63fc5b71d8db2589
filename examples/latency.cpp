// SPDX-License-Identifier: MIT
// How long clients wait: an observer with a histogram for each export and command, without a lock.
//
// It measures from the arrival of a request's header until its whole reply is in the send buffer.
// This is not the time of the backend: it contains the receipt of a large payload, and the wait for
// locks, for memory, and for a client that is slow to take earlier replies.
//
//     latency /tmp/nbd.sock &
//     nbdcopy --no-extents 'nbd+unix:///fast?socket=/tmp/nbd.sock' null:
//     kill %1
#include <nbd/protocol/names.hpp>
#include <nbd/server.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iostream>
#include <map>
#include <string>

#include <signal.h>

namespace {

using std::chrono::steady_clock;

/// Requests by the power of two of their microseconds, for each command.
using histogram = std::array<std::array<std::atomic<std::uint64_t>, 32>, 9>;
/// The exports are added before the server starts, so that the map itself does not change.
using histograms = std::map<std::string, histogram, std::less<>>;

struct latency {
    /// Kept with a request until its reply.
    struct note {
        histogram* of = nullptr;
        steady_clock::time_point begun;
    };
    histograms* all;

    note at_request(const nbd::client& c, const nbd::protocol::request& r)
    {
        if (r.command == nbd::protocol::command::disc)
            return {};  // it has no reply
        const auto found = all->find(c.export_name);
        return {found == all->end() ? nullptr : &found->second, steady_clock::now()};
    }
    void at_reply(const nbd::client&, const nbd::protocol::request& r, nbd::protocol::error_value,
                  const note& n)
    {
        const auto took =
            std::chrono::duration_cast<std::chrono::microseconds>(steady_clock::now() - n.begun);
        const auto bucket =
            static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(took.count())));
        const auto command = static_cast<std::size_t>(r.command);
        if (n.of != nullptr && command < n.of->size()) {
            auto& counts = (*n.of)[command];
            ++counts[std::min(bucket, counts.size() - 1)];
        }
    }
};

void print(const histograms& all)
{
    for (const auto& [name, commands] : all)
        for (std::size_t command = 0; command < commands.size(); ++command)
            for (std::size_t power = 0; power < commands[command].size(); ++power)
                if (const std::uint64_t count = commands[command][power]; count != 0)
                    std::cout << name << ' '
                              << nbd::protocol::name_of(
                                     static_cast<nbd::protocol::command>(command))
                              << " < " << (std::uint64_t{1} << power) << " us: " << count << '\n';
}

}  // namespace

int main(int argc, char** argv)
{
    ::sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before the server's threads exist

    histograms all;
    nbd::server<nbd::unix_transport, nbd::mem_backend, nbd::per_client_threads, latency> server{
        {.listen = {.path = argc > 1 ? argv[1] : "/tmp/nbd.sock"}, .observer = {&all}}};
    for (const char* name : {"fast", "slow"}) {
        all.try_emplace(name);
        server.exports().add(name, nbd::mem_backend{64 << 20});
    }
    server.start();
    std::cout << "serving " << server.uri("fast") << std::endl;
    int number = 0;
    ::sigwait(&signals, &number);
    server.stop();
    print(all);
}
