// SPDX-License-Identifier: MIT
#pragma once

#include "open_export.hpp"
#include "place.hpp"
#include "processor_time.hpp"
#include "raw_client.hpp"
#include <nbd/backend/null_backend.hpp>
#include <nbd/server.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

/// Whole sessions, from a client's request to its reply, through nbd::server on a real socket.
/// Transport, backend and policy are template parameters, so each combination is compiled
/// separately.
namespace bench {

/// The simplest disk that a user might write. It lends no memory, promises nothing about threads
/// (the server takes a lock for each call) and nothing about reads (the server zeroes their memory
/// first).
class plain_backend {
public:
    explicit plain_backend(std::uint64_t size) : bytes_(static_cast<std::size_t>(size)) {}

    [[nodiscard]] std::uint64_t size() const { return bytes_.size(); }
    std::error_code read(std::uint64_t offset, std::span<std::byte> to)
    {
        std::copy_n(at(offset), to.size(), to.begin());
        return {};
    }
    std::error_code write(std::uint64_t offset, std::span<const std::byte> from)
    {
        std::copy(from.begin(), from.end(), at(offset));
        return {};
    }

private:
    [[nodiscard]] std::vector<std::byte>::iterator at(std::uint64_t offset)
    {
        return bytes_.begin() + static_cast<std::ptrdiff_t>(offset);
    }
    std::vector<std::byte> bytes_;
};

// --- The name of each part in a benchmark's name ------------------------------------------

template <class Part>
inline constexpr std::string_view name_of{};
template <>
inline constexpr std::string_view name_of<nbd::unix_transport> = "unix";
template <>
inline constexpr std::string_view name_of<nbd::tcp_transport> = "tcp";
template <>
inline constexpr std::string_view name_of<nbd::mem_backend> = "mem";
template <>
inline constexpr std::string_view name_of<nbd::null_backend> = "null";
template <>
inline constexpr std::string_view name_of<plain_backend> = "plain";
template <>
inline constexpr std::string_view name_of<nbd::per_client_threads> = "per-client";
template <>
inline constexpr std::string_view name_of<nbd::strand_pool> = "pool";

/// Larger than a processor's inner caches. Every byte is written first, so that there are no holes.
inline constexpr std::uint64_t disk_bytes = std::uint64_t{32} << 20;

template <class Backend>
Backend full_disk()
{
    Backend disk{disk_bytes};
    const std::vector<std::byte> data(std::size_t{1} << 20, std::byte{0xa5});
    for (std::uint64_t at = 0; at < disk_bytes; at += data.size())
        static_cast<void>(disk.write(at, data));
    return disk;
}

/// One client of one server. An iteration is a batch: `state.range(1)` requests of `state.range(0)`
/// bytes each.
template <class Transport, class Backend, class Policy>
void session(benchmark::State& state, nbd::protocol::command command)
try {
    const auto block = static_cast<std::size_t>(state.range(0));
    const auto depth = static_cast<std::size_t>(state.range(1));
    const place<Transport> here;
    nbd::server<Transport, Backend, Policy> server{here.settings()};
    server.exports().add("disk", full_disk<Backend>());
    server.start();
    const auto& at = server.local_endpoint();
    raw_socket socket{at.data(), static_cast<::socklen_t>(at.size())};
    const auto size = open_export(socket, "").size;
    batch requests{socket, size, command, block, depth};
    requests.exchange();  // allocates memory and wakes threads before the measurement

    const auto before = other_threads_seconds();
    for (auto _ : state)
        requests.exchange();
    const auto count = state.iterations() * state.range(1);
    state.counters["server_cpu/req"] =
        (other_threads_seconds() - before) / static_cast<double>(count);
    state.SetItemsProcessed(count);
    state.SetBytesProcessed(count * state.range(0));
} catch (const std::exception& e) {
    state.SkipWithError(e.what());
}

template <class...>
struct types {};

template <class Transport, class Backend, class Policy>
void register_session()
{
    const auto add = [](std::string_view what, nbd::protocol::command command) {
        std::string name{"session"};
        for (const auto part : {name_of<Transport>, name_of<Backend>, name_of<Policy>, what})
            name.append("/").append(part);
        // Wall-clock time, because the server runs on other threads.
        benchmark::RegisterBenchmark(name.c_str(), session<Transport, Backend, Policy>, command)
            ->ArgsProduct({{4 << 10, 256 << 10}, {1, 16, 64}})
            ->ArgNames({"", "depth"})
            ->UseRealTime();
    };
    add("read", nbd::protocol::command::read);
    add("write", nbd::protocol::command::write);
}

/// Every backend with every policy.
template <class Transport, class... Backends, class... Policies>
bool register_sessions(types<Backends...>, types<Policies...>)
{
    const auto under_each = []<class Backend>(types<Backend>) {
        (register_session<Transport, Backend, Policies>(), ...);
    };
    (under_each(types<Backends>{}), ...);
    return true;
}

using all_backends = types<nbd::mem_backend, nbd::null_backend, plain_backend>;
using all_policies = types<nbd::per_client_threads, nbd::strand_pool>;

}  // namespace bench
