// SPDX-License-Identifier: MIT
// nbd-serve: a server on the command line. `nbd-serve --help` tells what it can do.
#include "nbd_serve_arguments.hpp"
#include "nbd_serve_log.hpp"
#include <nbd/backend/file_backend.hpp>
#include <nbd/backend/null_backend.hpp>
#include <nbd/server.hpp>
#ifdef NBD_SERVE_URING
#include <nbd/backend/uring_file_backend.hpp>
#endif

#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <exception>
#include <iostream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <sys/resource.h>

namespace {

struct arguments {
    std::string disk;
    std::string create;
    bool direct = false;
    std::string unix_path;
    std::string tcp;
    std::string name;
    std::string description;
    bool read_only = false;
    std::string policy = "per-client";
    std::size_t threads = 0;
    std::string block_size;
    nbd::settings limits;
    bool verbose = false;
};

/// What an error of the library says of `disk`, without the library's name, and the path but once.
std::string said(const disk_arguments& disk, const std::exception& error)
{
    std::string_view text = error.what();
    for (const std::string& known : {std::string{"nbd: "}, disk.path + ": "})
        if (text.starts_with(known))
            text.remove_prefix(known.size());
    return disk.text + ": " + std::string{text};
}

/// Serves a backend that is made from `made_from`, until a signal comes.
template <class Backend, class Policy, class... Args>
void serve(const arguments& a, const disk_arguments& disk, nbd::export_settings e,
           Policy policy(std::size_t), const Args&... made_from)
{
    boost::asio::io_context program;
    boost::asio::signal_set signals{program, SIGINT, SIGTERM};

    const auto exports = std::make_shared<nbd::export_set<Backend>>();
    try {
        exports->emplace(a.name, std::move(e), made_from...);
    } catch (const std::system_error& error) {
        if (!disk.in_file())
            throw std::runtime_error{disk.text
                                     + ": expected a size that fits in a process's memory: "
                                     + error.code().message()};
        throw std::runtime_error{said(disk, error)};
    } catch (const std::exception& error) {
        throw usage_error{said(disk, error)};
    }
    std::optional<nbd::server<nbd::unix_transport, Backend, Policy, client_log>> on_unix;
    std::optional<nbd::server<nbd::tcp_transport, Backend, Policy, client_log>> on_tcp;
    const auto start = [&](auto& server, const auto& listen_at, const std::string& argument) {
        server.emplace(exports, listen_at, a.limits, policy(a.threads), client_log{a.verbose});
        std::error_code error;
        server->start(error);
        if (error)
            throw std::runtime_error{argument + ": " + error.message()};
    };
    if (!a.unix_path.empty())
        start(on_unix, nbd::unix_transport::settings{.path = a.unix_path}, "--unix " + a.unix_path);
    if (!a.tcp.empty())
        start(on_tcp, parse_tcp(a.tcp), "--tcp " + a.tcp);
    if (on_unix)
        std::cout << "serving " << on_unix->uri(a.name) << '\n';
    if (on_tcp)
        std::cout << "serving " << on_tcp->uri(a.name) << '\n';
    std::cout.flush();

    signals.async_wait([](auto, int) {});
    program.run();

    // A second signal shall not turn a clean end into another. Every other thread has ended then.
    on_unix.reset();
    on_tcp.reset();
    ::sigset_t both;
    sigemptyset(&both);
    sigaddset(&both, SIGINT);
    sigaddset(&both, SIGTERM);
    ::pthread_sigmask(SIG_BLOCK, &both, nullptr);
}

template <class Backend, class... Args>
void serve(const arguments& a, const disk_arguments& disk, nbd::export_settings e,
           const Args&... made_from)
{
    if (a.policy == "pool")
        serve<Backend, nbd::strand_pool>(
            a, disk, std::move(e),
            [](std::size_t threads) {
                return threads == 0 ? nbd::strand_pool{} : nbd::strand_pool{threads};
            },
            made_from...);
    else
        serve<Backend, nbd::per_client_threads>(
            a, disk, std::move(e), [](std::size_t) { return nbd::per_client_threads{}; },
            made_from...);
}

void serve(arguments a)
{
    if (a.unix_path.empty() && a.tcp.empty())
        a.tcp = "127.0.0.1:10809";
    if (!a.tcp.empty())
        std::ignore = parse_tcp(a.tcp);
    if (a.threads != 0 && a.policy != "pool")
        throw usage_error{"--threads: expected with --policy pool, but got --policy " + a.policy};
    nbd::export_settings e{.read_only = a.read_only};
    if (!a.description.empty())
        e.description = a.description;
    if (!a.block_size.empty())
        e.blocks = parse_block_sizes(a.block_size);

    auto disk = parse_disk(a.disk);
    if (!disk.in_file() && (a.direct || !a.create.empty()))
        throw usage_error{std::string{a.direct ? "--direct" : "--create"}
                          + ": expected a disk in a file, but got \"" + a.disk + '"'};
    disk.file = {.read_only = a.read_only, .direct = a.direct};
    if (!a.create.empty())
        disk.file.create = parse_size("--create", a.create);
    if (disk.kind == "mem")
        serve<nbd::mem_backend>(a, disk, std::move(e), disk.size);
    else if (disk.kind == "null")
        serve<nbd::null_backend>(a, disk, std::move(e), disk.size);
    else if (disk.kind == "file")
        serve<nbd::file_backend>(a, disk, std::move(e), disk.path, disk.file);
    else
#ifdef NBD_SERVE_URING
        serve<nbd::uring_file_backend>(a, disk, std::move(e), disk.path, disk.file);
#else
        throw usage_error{a.disk + ": this nbd-serve was built without io_uring"};
#endif
}

/// Each client takes a descriptor; the system's usual soft limit of 1024 is a low one.
void raise_descriptor_limit()
{
    ::rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        ::setrlimit(RLIMIT_NOFILE, &limit);
    }
}

}  // namespace

int main(int argc, char** argv)
{
    arguments a;
    CLI::App app{"Serves a network block device to NBD clients.", "nbd-serve"};
    app.add_option("DISK", a.disk,
                   "mem:SIZE, a sparse disk in memory; null:SIZE, which reads as zero and forgets; "
                   "file:PATH, a file or a block device; uring:PATH, the same through io_uring; "
                   "sizes take K, M, G and T")
        ->required();
    app.add_option("--create", a.create,
                   "make the disk's file if it is not there; if it is, it must have this size")
        ->type_name("SIZE");
    app.add_flag("--direct", a.direct, "go around the system's cache of files (O_DIRECT)");
    app.add_option("--unix", a.unix_path, "listen on this UNIX socket")->type_name("PATH");
    app.add_option(
           "--tcp", a.tcp,
           "listen on this address, port 0 for any; without --unix and --tcp 127.0.0.1:10809")
        ->type_name("HOST:PORT");
    app.add_option("--name", a.name, "the export's name; the empty name finds it too")
        ->type_name("NAME");
    app.add_option("--description", a.description, "what clients are told about it")
        ->type_name("TEXT");
    app.add_flag("--read-only", a.read_only, "refuse every change");
    app.add_option("--policy", a.policy, "a thread for each client, or a pool of threads for all")
        ->check(CLI::IsMember({"per-client", "pool"}))
        ->type_name("per-client|pool");
    app.add_option("--threads", a.threads, "threads of --policy pool; default: one for each core")
        ->check(CLI::Range(std::size_t{1}, std::size_t{1024}))
        ->type_name("N");
    app.add_option("--block-size", a.block_size, "the block sizes that clients must keep to")
        ->type_name("MIN:PREFERRED:MAX");
    app.add_option("--max-connections", a.limits.max_connections,
                   "clients at a time on each of --unix and --tcp, 0 for any number")
        ->capture_default_str()
        ->check(CLI::Range(std::size_t{0}, std::size_t{1'000'000}))
        ->type_name("N");
    app.add_option("--requests-in-flight", a.limits.requests_in_flight,
                   "requests of a client that are under way at a time, where the disk waits")
        ->capture_default_str()
        ->check(CLI::Range(std::size_t{1}, std::size_t{65536}))
        ->type_name("N");
    std::uint32_t busy_poll = static_cast<std::uint32_t>(a.limits.busy_poll.count());
    app.add_option("--busy-poll", busy_poll,
                   "how long to look for the next request of a quick client before sleeping, 0 for "
                   "not at all")
        ->capture_default_str()
        ->check(CLI::Range(std::uint32_t{0}, std::uint32_t{1'000'000}))
        ->type_name("MICROSECONDS");
    app.add_flag("--verbose", a.verbose, "tell on stderr what every client does");

    try {
        app.parse(argc, argv);
        for (const std::string argument : {"--create", "--unix", "--tcp", "--block-size"})
            if (app.count(argument) != 0 && app.get_option(argument)->as<std::string>().empty())
                throw usage_error{argument + ": expected a value, but got an empty one"};
        a.limits.busy_poll = std::chrono::microseconds{busy_poll};
        raise_descriptor_limit();
        std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error, not the end
        serve(std::move(a));
        return 0;
    } catch (const CLI::Success& e) {
        return app.exit(e);
    } catch (const CLI::ParseError& e) {
        std::cerr << "nbd-serve: " << e.what() << '\n';
        return 2;
    } catch (const usage_error& e) {
        std::cerr << "nbd-serve: " << e.what() << '\n';
        return 2;
    } catch (const std::exception& e) {
        std::cerr << "nbd-serve: " << e.what() << '\n';
        return 1;
    }
}
