// SPDX-License-Identifier: MIT
// nbd-load: keeps requests in flight on an NBD server and reports their rate, their latency and the
// server's processor time. `nbd-load --help` lists its arguments; bench/README.md explains the
// figures.
#include "descriptor_limit.hpp"
#include "load_client.hpp"
#include "load_plan.hpp"
#include "load_run.hpp"
#include "open_export.hpp"
#include "processor_time.hpp"
#include "raw_socket.hpp"
#include "reconnect_run.hpp"
#include "server_address.hpp"
#include <nbd/protocol/constants.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <iostream>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sys/types.h>

namespace {

struct arguments {
    std::string uri;
    std::string unix_path;
    std::string tcp;
    std::string name;
    std::size_t connections = 1;
    std::size_t depth = 1;
    std::uint64_t block = 4096;
    unsigned read_percent = 100;
    std::string pattern = "random";
    std::uint64_t range = 0;
    double seconds = 3;
    std::uint64_t requests = 0;
    double warm_up = 0.5;
    std::size_t threads = 0;
    ::pid_t server_pid = 0;
    bool structured = false;
    bool verify = false;
    bool reconnect = false;
    bool at_once = false;
    bool json = false;

    /// Connections are measured, not requests: each has one request.
    [[nodiscard]] bool short_sessions() const noexcept { return reconnect || at_once; }
};

/// A bad argument. The message names the argument and says what was expected.
struct usage_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

bench::export_address target(const arguments& a)
{
    const auto given =
        (a.uri.empty() ? 0 : 1) + (a.unix_path.empty() ? 0 : 1) + (a.tcp.empty() ? 0 : 1);
    if (given != 1)
        throw usage_error{"expected exactly one of URI, --unix and --tcp"};
    try {
        if (!a.uri.empty())
            return bench::parse_uri(a.uri);
        if (!a.unix_path.empty())
            return {bench::unix_address(a.unix_path), a.name};
        return {bench::tcp_address(a.tcp), a.name};
    } catch (const std::invalid_argument& e) {
        const std::string option = !a.uri.empty() ? "" : a.tcp.empty() ? "--unix: " : "--tcp: ";
        throw usage_error{option + e.what()};
    }
}

/// The plan of the first connection, which depends on the export.
bench::load_plan plan(const arguments& a, const bench::opened_export& e)
{
    const auto say = [](std::uint64_t n) { return std::to_string(n); };
    if (a.block > e.maximum_payload || a.block % e.minimum_block != 0)
        throw usage_error{"--block: expected a multiple of " + say(e.minimum_block) + " up to "
                          + say(e.maximum_payload) + ", but got " + say(a.block)};
    if (a.range > e.size)
        throw usage_error{"--range: expected at most " + say(e.size)
                          + " bytes, the size of the export, but got " + say(a.range)};
    if (a.verify && a.block % bench::stamp_bytes != 0)
        throw usage_error{"--block: expected a multiple of 8 bytes with --verify, but got "
                          + say(a.block)};
    if ((a.read_percent != 100 || a.verify)
        && (e.flags & nbd::protocol::transmission_flag::read_only) != 0)
        throw usage_error{"--mix: expected 100, without --verify, because the export is read-only"};
    const auto blocks = (a.range != 0 ? a.range : e.size) / a.block;
    // Verified requests in flight never touch the same block, and connections use different blocks.
    const auto least = a.verify ? a.connections * (a.depth + 1) : 1;
    if (blocks < least)
        throw usage_error{"the export, or --range, has " + say(blocks) + " blocks of "
                          + say(a.block) + " bytes, but at least " + say(least) + " are needed"};
    return {.block = static_cast<std::size_t>(a.block),
            .depth = a.depth,
            .read_percent = a.read_percent,
            .random = a.pattern == "random",
            .first = 0,
            .blocks = blocks,
            .start = 0,
            .verify = a.verify};
}

std::vector<bench::load_client> connect(const arguments& a)
{
    const auto to = target(a);
    std::vector<bench::load_client> clients;
    clients.reserve(a.connections);
    for (std::uint64_t i = 0; i < a.connections; ++i) {
        bench::raw_socket socket{to.server.data(), to.server.size()};
        auto p = plan(a, bench::open_export(socket, to.name, a.structured));
        const auto from = p.blocks * i / a.connections;
        if (a.verify) {
            p.first = from;
            p.blocks = p.blocks * (i + 1) / a.connections - from;
        } else {
            p.start = from;
        }
        clients.emplace_back(std::move(socket), p);
    }
    return clients;
}

/// The figures, with their names in the output of --json.
struct figures {
    double requests, seconds, rate, bytes, mean, p50, p90, p99, p999, most, client;
    std::optional<double> server, server_byte, server_cores;

    figures(const arguments& a, const bench::load_result& r)
    {
        const auto& times = r.sum.latencies;
        const auto us = [](std::uint64_t ns) { return static_cast<double>(ns) / 1e3; };
        requests = static_cast<double>(times.count());
        seconds = r.seconds;
        rate = requests / seconds;
        bytes = static_cast<double>(r.sum.bytes) / seconds;
        mean = times.mean() / 1e3;
        p50 = us(times.quantile(0.5));
        p90 = us(times.quantile(0.9));
        p99 = us(times.quantile(0.99));
        p999 = us(times.quantile(0.999));
        most = us(times.most());
        client = r.client_seconds * 1e6 / requests;
        if (r.server_seconds) {
            server = *r.server_seconds * 1e6 / requests;
            server_byte = *server * 1e3 / static_cast<double>(a.block);
            server_cores = *r.server_seconds / seconds;
        }
    }
};

void print_json(const arguments& a, const figures& f)
{
    const auto say = [](bool value) { return value ? "true" : "false"; };
    std::printf("{\"connections\": %zu, \"depth\": %zu, \"block\": %llu, \"mix\": %u, "
                "\"pattern\": \"%s\", \"verified\": %s, \"reconnect\": %s, \"at_once\": %s,\n",
                a.connections, a.depth, static_cast<unsigned long long>(a.block), a.read_percent,
                a.pattern.c_str(), say(a.verify), say(a.reconnect), say(a.at_once));
    if (a.short_sessions())
        std::printf(" \"connections_per_second\": %.1f,\n", f.rate);
    std::printf(" \"seconds\": %.6f, \"requests\": %.0f, \"requests_per_second\": %.1f, "
                "\"bytes_per_second\": %.0f,\n",
                f.seconds, f.requests, f.rate, f.bytes);
    std::printf(" \"latency_us\": {\"mean\": %.3f, \"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, "
                "\"p99.9\": %.3f, \"max\": %.3f},\n",
                f.mean, f.p50, f.p90, f.p99, f.p999, f.most);
    if (f.server)
        std::printf(" \"server_cpu_us_per_request\": %.4f, \"server_cpu_ns_per_byte\": %.5f, "
                    "\"server_cores\": %.3f,\n",
                    *f.server, *f.server_byte, *f.server_cores);
    std::printf(" \"client_cpu_us_per_request\": %.4f}\n", f.client);
}

void print_text(const arguments& a, const figures& f)
{
    const char* const each = a.short_sessions() ? "connection" : "request";
    std::printf("%zu connection%s", a.connections, a.connections == 1 ? "" : "s");
    if (!a.short_sessions())
        std::printf(", %zu in flight on each", a.depth);
    std::printf(", %llu bytes a request, %u %% READ, %s%s%s\n",
                static_cast<unsigned long long>(a.block), a.read_percent, a.pattern.c_str(),
                a.verify ? ", all data verified" : "",
                a.reconnect     ? ", a new one for each request"
                    : a.at_once ? ", opened for one request at once"
                                : "");
    std::printf("  rate        %.0f %ss/s, %.1f MB/s (%.0f %ss in %.2f s)\n", f.rate, each,
                f.bytes / 1e6, f.requests, each, f.seconds);
    std::printf("  latency     mean %.1f, p50 %.1f, p90 %.1f, p99 %.1f, p99.9 %.1f, max %.1f us\n",
                f.mean, f.p50, f.p90, f.p99, f.p999, f.most);
    if (f.server)
        std::printf("  server CPU  %.3f us a %s, %.4f ns a byte, %.2f cores\n", *f.server, each,
                    *f.server_byte, *f.server_cores);
    std::printf("  client CPU  %.3f us a %s\n", f.client, each);
}

bench::load_result load_connections(const arguments& a, const bench::load_length& length,
                                    const bench::process_tree* server)
{
    const auto to = target(a);
    const auto p = [&] {
        bench::raw_socket first{to.server.data(), to.server.size()};
        return plan(a, bench::open_export(first, to.name));
    }();
    if (a.at_once)
        return bench::run_at_once(to, p, a.connections, length, server);
    bench::reconnect_run run{to, p, a.connections, a.threads != 0 ? a.threads : a.connections};
    return run.run(length, server);
}

bench::load_result load_requests(const arguments& a, bench::load_length length,
                                 std::vector<bench::load_client> clients,
                                 const bench::process_tree* server)
{
    if (a.requests != 0)
        length.requests = std::max<std::uint64_t>(1, a.requests / a.connections);
    bench::load_run run{clients, a.threads != 0 ? a.threads : a.connections, length};
    return run.run(server);
}

void load(const arguments& a)
{
    bench::load_length length{.warm_up = std::chrono::duration<double>{a.warm_up},
                              .measured = std::chrono::duration<double>{a.seconds},
                              .verify = a.verify};
    if (a.requests != 0)
        length.requests = a.requests;
    // A server may fork for each client, so its processes are counted after the connections.
    std::vector<bench::load_client> clients;
    if (!a.short_sessions())
        clients = connect(a);
    std::optional<bench::process_tree> server;
    if (a.server_pid != 0)
        server.emplace(a.server_pid);
    const auto* clock = server ? &*server : nullptr;
    const auto result = a.short_sessions() ? load_connections(a, length, clock)
                                           : load_requests(a, length, std::move(clients), clock);
    if (result.sum.latencies.count() == 0)
        throw std::runtime_error{"no request was answered in the measured time"};
    const figures f{a, result};
    a.json ? print_json(a, f) : print_text(a, f);
}

}  // namespace

int main(int argc, char** argv)
{
    arguments a;
    CLI::App app{"Keeps requests in flight on an NBD server and measures the server.", "nbd-load"};
    constexpr std::uint64_t most = std::numeric_limits<std::int64_t>::max();  // bytes of a disk
    const CLI::Range at_least_one{std::uint64_t{1}, std::uint64_t{65536}};
    app.add_option("URI", a.uri, "nbd+unix:///NAME?socket=PATH or nbd://HOST:PORT/NAME");
    app.add_option("--unix", a.unix_path, "the server's UNIX socket")->type_name("PATH");
    app.add_option("--tcp", a.tcp, "the server's address")->type_name("HOST:PORT");
    app.add_option("--name", a.name, "the export's name, for --unix and --tcp")->type_name("NAME");
    app.add_option("--connections", a.connections, "number of connections")
        ->capture_default_str()
        ->check(at_least_one)
        ->type_name("N");
    auto* depth = app.add_option("--depth", a.depth, "requests in flight on each connection");
    depth->capture_default_str()->check(at_least_one)->type_name("N");
    app.add_option("--block", a.block, "bytes of a request, or with K, M, G or T")
        ->capture_default_str()
        ->transform(CLI::AsSizeValue(false))
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 30))
        ->type_name("SIZE");
    auto* mix = app.add_option("--mix", a.read_percent,
                               "percentage of READs; the other requests are WRITEs");
    mix->capture_default_str()->check(CLI::Range(0, 100))->type_name("PERCENT");
    app.add_option("--pattern", a.pattern,
                   "order of the blocks; each connection starts at a different block")
        ->capture_default_str()
        ->check(CLI::IsMember({"seq", "random"}))
        ->type_name("seq|random");
    app.add_option("--range", a.range, "use only this many bytes from the beginning of the disk")
        ->transform(CLI::AsSizeValue(false))
        ->check(CLI::Range(std::uint64_t{1}, most))
        ->type_name("SIZE");
    auto* seconds = app.add_option("--seconds", a.seconds, "how long to measure")
                        ->capture_default_str()
                        ->check(CLI::Range(0.001, 1e6))
                        ->type_name("S");
    app.add_option("--requests", a.requests,
                   "measure this number of requests on each connection, instead of a time")
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1'000'000'000'000}))
        ->excludes(seconds)
        ->type_name("N");
    app.add_option("--warm-up", a.warm_up, "seconds of load before the measurement")
        ->capture_default_str()
        ->check(CLI::Range(0.0, 1e6))
        ->type_name("S");
    auto* threads = app.add_option("--threads", a.threads,
                                   "threads of nbd-load; default: one for each connection");
    threads->check(at_least_one)->type_name("N");
    app.add_option("--server-pid", a.server_pid,
                   "process id of the server, to measure its processor time")
        ->check(CLI::Range(::pid_t{1}, std::numeric_limits<::pid_t>::max()))
        ->type_name("PID");
    auto* structured = app.add_flag("--structured", a.structured, "ask for structured replies");
    auto* verify = app.add_flag(
        "--verify", a.verify,
        "write all blocks first, check the data of every READ, and read all blocks at the end");
    auto* reconnect =
        app.add_flag("--reconnect", a.reconnect,
                     "open a new connection for each READ, and close it; measure connections");
    auto* at_once = app.add_flag("--at-once", a.at_once,
                                 "open all connections as fast as possible, read once on each, "
                                 "close all, and repeat; measure connections");
    at_once->excludes(reconnect)->excludes(threads);
    for (auto* other : {depth, mix, structured, verify}) {
        reconnect->excludes(other);
        at_once->excludes(other);
    }
    app.add_flag("--json", a.json, "print the figures as JSON");

    try {
        app.parse(argc, argv);
        bench::raise_descriptor_limit();
        load(a);
        return 0;
    } catch (const CLI::Success& e) {
        return app.exit(e);
    } catch (const CLI::ParseError& e) {
        std::cerr << "nbd-load: " << e.what() << '\n';
        return 2;
    } catch (const usage_error& e) {
        std::cerr << "nbd-load: " << e.what() << '\n';
        return 2;
    } catch (const std::exception& e) {
        std::cerr << "nbd-load: " << e.what() << '\n';
        return 1;
    }
}
