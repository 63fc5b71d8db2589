// SPDX-License-Identifier: MIT
// start_stop ROUNDS: servers start and stop, on one address, while clients connect, list, read and
// leave all the time. No descriptor and no thread is left; the sanitizers look for the rest.
#include "grid/server_fixture.hpp"
#include <nbd/server.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iterator>
#include <stop_token>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

using namespace grid;

namespace {

std::size_t entries(const char* folder)
{
    const std::filesystem::directory_iterator all{folder};
    return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

/// What the clients have done, whatever server they met.
struct counts {
    std::atomic<std::uint64_t> listed{0};
    std::atomic<std::uint64_t> read{0};
    std::atomic<std::uint64_t> abandoned{0};
    std::atomic<std::uint64_t> cut{0};  ///< there was no server, or it stopped meanwhile
    std::atomic<std::uint64_t> served{0};

    void serve()
    {
        ++served;
        served.notify_all();
    }
};

/// One client after the other, of four kinds.
void keep_connecting(const std::stop_token& enough, const std::string& path, counts& done)
{
    const boost::asio::local::stream_protocol::endpoint endpoint{path};
    for (unsigned kind = 0; !enough.stop_requested(); ++kind) {
        try {
            raw_client client{endpoint};
            switch (kind % 4) {
            case 0:
                client.greet();
                std::ignore = client.ask(proto::option::list);
                ++done.listed;
                done.serve();
                break;
            case 1:
                client.go("disk");
                if (client.read(0, 512))
                    ++done.read;
                done.serve();
                client.disconnect();
                break;
            case 2:  // requests whose replies nobody takes
                client.go("disk");
                for (int i = 0; i < 8; ++i)
                    client.send_request({.length = 65536});
                ++done.abandoned;
                break;
            default:  // leaves at once
                ++done.abandoned;
            }
        } catch (const std::exception&) {
            ++done.cut;
            std::this_thread::sleep_for(std::chrono::microseconds{100});
        }
    }
}

template <class Policy>
bool rounds(unsigned count)
{
    const auto at = somewhere<nbd::unix_transport>();
    counts done;
    const auto descriptors = entries("/proc/self/fd");
    const auto threads = entries("/proc/self/task");
    {
        std::vector<std::jthread> clients;
        for (int i = 0; i < 4; ++i)
            clients.emplace_back(
                [&](const std::stop_token& enough) { keep_connecting(enough, at.path, done); });
        for (unsigned round = 0; round < count; ++round) {
            nbd::server<nbd::unix_transport, nbd::mem_backend, Policy> server{at};
            server.exports().add("disk", nbd::mem_backend{1 << 20});
            const auto before = done.served.load();
            server.start();
            if (round % 4 < 2)
                done.served.wait(before);
            if (round % 8 == 0) {
                auto client = connect(server);  // stays until the server stops
                client.go("disk");
                if (!client.read(0, 512))
                    return false;
                if (round % 16 == 0)
                    server.stop();
            } else if (round % 2 == 0) {
                server.stop();
            }
        }
    }
    std::printf("%u rounds: %llu lists, %llu reads, %llu clients that left, %llu without a server; "
                "descriptors %zu, then %zu; threads %zu, then %zu\n",
                count, static_cast<unsigned long long>(done.listed.load()),
                static_cast<unsigned long long>(done.read.load()),
                static_cast<unsigned long long>(done.abandoned.load()),
                static_cast<unsigned long long>(done.cut.load()), descriptors,
                entries("/proc/self/fd"), threads, entries("/proc/self/task"));
    return done.listed != 0 && done.read != 0 && entries("/proc/self/fd") == descriptors
        && entries("/proc/self/task") == threads && !std::filesystem::exists(at.path);
}

}  // namespace

int main(int argc, char** argv)
{
    const auto count = static_cast<unsigned>(argc > 1 ? std::atoi(argv[1]) : 200);
    raw_client::patience_in_seconds = 60;
    std::thread{[] {}}.join();  // ThreadSanitizer then has its own thread already
    try {
        const bool pool = rounds<nbd::strand_pool>(count / 2);
        const bool threads = rounds<nbd::per_client_threads>(count / 2);
        std::puts(pool && threads ? "all were as before" : "FAILED");
        return pool && threads ? 0 : 1;
    } catch (const std::exception& e) {
        std::printf("FAILED: %s\n", e.what());
        return 1;
    }
}
