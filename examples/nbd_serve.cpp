// SPDX-License-Identifier: MIT
// nbd-serve: a server for the command line. `nbd-serve --help` lists its arguments.
#include "nbd_serve_access.hpp"
#include "nbd_serve_arguments.hpp"
#include "nbd_serve_listening.hpp"
#include "nbd_serve_log.hpp"
#include "nbd_serve_system.hpp"
#include "nbd_serve_tls.hpp"
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
#include <functional>
#include <iostream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <sys/resource.h>

namespace {

/// Places from which clients are told that they may open several connections. Copy programs open
/// four.
constexpr std::size_t least_for_multi_conn = 8;

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
    std::string lock = "exclusive";
    nbd::settings limits;
    tls_arguments tls;
    access_arguments access;
    bool verbose = false;
};

/// The text of a library error about `disk`, without the library's name and without a second path.
std::string describe(const disk_arguments& disk, const std::exception& error)
{
    std::string_view text = error.what();
    for (const std::string& known : {std::string{"nbd: "}, disk.path + ": "})
        if (text.starts_with(known))
            text.remove_prefix(known.size());
    return disk.text + ": " + std::string{text};
}
/// The option that may help after an error.
std::string advice(const disk_arguments& disk, const std::error_code& error)
{
    if (error == std::errc::no_such_file_or_directory && !disk.file.create && !disk.file.read_only)
        return "; --create SIZE makes a new file";
    if (!disk.file.read_only
        && (error == std::errc::permission_denied || error == std::errc::read_only_file_system))
        return "; --read-only opens it for reading";
    if (error == std::errc::device_or_resource_busy)
        return "; --lock shared shares it with programs that share it too";
    return {};
}

/// The signals that end the program. SIGHUP is one of them unless the caller ignores it (nohup).
std::vector<int> ending_signals()
{
    std::vector<int> all{SIGINT, SIGTERM};
    struct ::sigaction hangup {};
    if (::sigaction(SIGHUP, nullptr, &hangup) != 0 || hangup.sa_handler != SIG_IGN)
        all.push_back(SIGHUP);
    return all;
}

/// Serves a backend that is constructed from `made_from`, until a signal ends the program.
template <class Backend, class Policy, class... Args>
void serve(const arguments& a, const disk_arguments& disk, nbd::export_settings e,
           Policy policy(std::size_t), const Args&... made_from)
{
    auto tls = set_up(a.tls);
    const auto authorise = authorise_by(a.access, a.tls);
    boost::asio::io_context program;
    boost::asio::signal_set signals{program};
    for (const int number : ending_signals())
        signals.add(number);
    boost::asio::signal_set reloads{program, SIGUSR1};
    const std::function<void()> await_reload = [&] {
        reloads.async_wait([&](const boost::system::error_code& cancelled, int) {
            if (cancelled)
                return;
            reload(tls);
            await_reload();
        });
    };

    const auto exports = std::make_shared<nbd::export_set<Backend>>();
    try {
        exports->emplace(a.name, std::move(e), made_from...);
    } catch (const std::system_error& error) {
        if (!disk.in_file())
            throw std::runtime_error{disk.text
                                     + ": expected a size that fits in a process's memory: "
                                     + error.code().message()};
        throw std::runtime_error{describe(disk, error) + advice(disk, error.code())};
    } catch (const std::exception& error) {
        throw usage_error{describe(disk, error)};
    }
    if (disk.in_file() && disk.file.lock != nbd::file_lock::off && !look_at(disk.path).locks)
        std::cerr << "nbd-serve: " << disk.text
                  << ": the system does not lock this file against other programs\n";
    std::optional<log_output> log;
    if (a.verbose)
        log.emplace();
    {
        const auto make_policy = [&] { return policy(a.threads); };
        servers<Backend, Policy> all{
            exports, a.limits, make_policy, client_log{log ? &*log : nullptr}, tls, authorise};
        std::vector<std::string> uris;
        if (!a.unix_path.empty())
            uris.push_back(all.listen_unix(a.unix_path, a.name));
        if (!a.tcp.empty())
            uris.push_back(all.listen_tcp(a.tcp, a.name));
        for (const auto& uri : uris)
            std::cout << "serving " << uri << '\n';
        std::cout.flush();

        await_reload();
        signals.async_wait([&](auto, int) { reloads.cancel(); });
        program.run();
    }
    // Blocks a second signal, which would kill the process while it ends. This is the only thread
    // left.
    ::sigset_t ending;
    sigemptyset(&ending);
    for (const int number : ending_signals())
        sigaddset(&ending, number);
    ::pthread_sigmask(SIG_BLOCK, &ending, nullptr);
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
    check_unix(a.unix_path);
    check_string("--name", a.name);
    check_string("--description", a.description);
    if (a.threads != 0 && a.policy != "pool")
        throw usage_error{"--threads: expected together with --policy pool, but got --policy "
                          + a.policy};
    nbd::export_settings e{.read_only = a.read_only};
    if (!a.description.empty())
        e.description = a.description;
    if (!a.block_size.empty())
        e.blocks = parse_block_sizes(a.block_size);

    // A client that opened several connections would wait for places that are not there.
    if (a.limits.max_connections != 0 && a.limits.max_connections < least_for_multi_conn)
        e.withhold = nbd::protocol::transmission_flag::can_multi_conn;

    auto disk = parse_disk(a.disk);
    if (!disk.in_file() && (a.direct || !a.create.empty()))
        throw usage_error{std::string{a.direct ? "--direct" : "--create"}
                          + ": expected a disk of file:PATH or uring:PATH, but got \"" + a.disk
                          + '"'};
    if (disk.in_file() && !a.read_only && !look_at(disk.path).writes) {
        std::cerr << "nbd-serve: " << a.disk
                  << ": the device is read-only, so it is served as with --read-only\n";
        a.read_only = true;
    }
    disk.file = {.read_only = a.read_only, .direct = a.direct};
    if (a.lock != "exclusive")
        disk.file.lock = a.lock == "shared" ? nbd::file_lock::shared : nbd::file_lock::off;
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

/// Each client uses a descriptor, and the usual soft limit is only 1024.
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
    CLI::App app{"Serves a disk to NBD clients, until SIGINT, SIGTERM or SIGHUP.", "nbd-serve"};
    app.add_option(
           "DISK", a.disk,
           "mem:SIZE is a sparse disk in memory, as large as the address space allows (about 127T, "
           "or what ulimit -v leaves); null:SIZE reads as zero and discards writes; file:PATH is a "
           "file or a block device, whose size is read again for each client that opens it; "
           "uring:PATH is the same through io_uring. SIZE is in bytes, or with K, M, G or T in "
           "powers of 1024")
        ->required();
    app.add_option(
           "--create", a.create,
           "create the file of file:PATH or uring:PATH with this size; an existing file must "
           "have this size")
        ->type_name("SIZE");
    app.add_flag("--direct", a.direct,
                 "bypass the page cache (O_DIRECT); for file:PATH and uring:PATH");
    app.add_option("--lock", a.lock,
                   "for file:PATH and uring:PATH, against other programs such as qemu-img: "
                   "exclusive: none of them writes, nor reads unless --read-only; shared: those "
                   "that share the file too may; off: no locks. Default: exclusive")
        ->check(CLI::IsMember({"exclusive", "shared", "off"}))
        ->type_name("exclusive|shared|off");
    app.add_option("--unix", a.unix_path,
                   "listen on this UNIX socket, which is created with mode 0600")
        ->type_name("PATH");
    app.add_option(
           "--tcp", a.tcp,
           "listen on this address, or on all addresses of this host name; port 0 is any free "
           "port. Default, without --unix: 127.0.0.1:10809")
        ->type_name("HOST:PORT");
    app.add_option(
           "--name", a.name,
           "the export's name; default: empty. A client that asks for the empty name gets the "
           "export in any case")
        ->type_name("NAME");
    app.add_option("--description", a.description,
                   "the export's description, for clients that list exports")
        ->type_name("TEXT");
    app.add_flag("--read-only", a.read_only, "refuse writes");
    app.add_option("--policy", a.policy,
                   "per-client: a thread for each client; pool: a pool of threads for all clients")
        ->check(CLI::IsMember({"per-client", "pool"}))
        ->type_name("per-client|pool");
    app.add_option("--threads", a.threads,
                   "number of threads of --policy pool; default: one for each processor core")
        ->check(CLI::Range(std::size_t{1}, std::size_t{1024}))
        ->type_name("N");
    app.add_option("--block-size", a.block_size,
                   "minimum, preferred and maximum block size, in bytes; clients must use them")
        ->type_name("MIN:PREFERRED:MAX");
    app.add_option("--max-connections", a.limits.max_connections,
                   "largest number of clients on each address; 0: no limit. Others wait up to ten "
                   "seconds for a place. With fewer than 8, clients are not told that they may "
                   "open several connections")
        ->capture_default_str()
        ->check(CLI::Range(std::size_t{0}, std::size_t{1'000'000}))
        ->type_name("N");
    app.add_option("--requests-in-flight", a.limits.requests_in_flight,
                   "largest number of requests of one client in progress, for disks that wait")
        ->capture_default_str()
        ->check(CLI::Range(std::size_t{1}, std::size_t{65536}))
        ->type_name("N");
    std::uint32_t busy_poll = static_cast<std::uint32_t>(a.limits.busy_poll.count());
    app.add_option("--busy-poll", busy_poll,
                   "how long a thread polls for the next request before it sleeps; 0: never")
        ->capture_default_str()
        ->check(CLI::Range(std::uint32_t{0}, std::uint32_t{1'000'000}))
        ->type_name("MICROSECONDS");
    for (const auto& option : time_options) {
        const auto initial =
            std::chrono::duration_cast<std::chrono::seconds>(a.limits.*option.limit);
        app.add_option_function<std::string>(
               option.name,
               [&a, option](const std::string& text) {
                   a.limits.*option.limit = parse_seconds(option.name, text);
               },
               option.help)
            ->default_str(std::to_string(initial.count()))
            ->type_name("SECONDS");
    }
    app.add_option("--least-transfer-rate", a.limits.least_transfer_rate,
                   "a client that is slower is disconnected when it is behind by "
                   "--progress-timeout or --send-timeout, or for another one that needs its "
                   "memory; 0: none is too slow")
        ->capture_default_str()
        ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 40))
        ->type_name("BYTES-PER-SECOND");
    app.add_option("--tls", a.tls.mode,
                   "off; on: clients may start TLS; require: they must. SIGUSR1 loads certificates "
                   "and keys again")
        ->check(CLI::IsMember({"off", "on", "require"}))
        ->type_name("off|on|require");
    app.add_option("--tls-certificates", a.tls.certificates,
                   "a folder with server-cert.pem and server-key.pem; with ca-cert.pem and, if "
                   "there is one, ca-crl.pem for --tls-verify-peer")
        ->type_name("DIR");
    app.add_option("--tls-psk", a.tls.psk,
                   "a file of pre-shared keys, as psktool of GnuTLS writes it")
        ->type_name("FILE");
    app.add_flag("--tls-verify-peer", a.tls.verify_peer,
                 "clients need a certificate that ca-cert.pem has signed, or a pre-shared key");
    add_access_options(app, a.access);
    app.add_flag("--verbose", a.verbose, "log to stderr what each client does");

    try {
        app.parse(argc, argv);
        for (const std::string argument :
             {"--create", "--unix", "--tcp", "--block-size", "--tls-certificates", "--tls-psk"})
            if (app.count(argument) != 0 && app.get_option(argument)->as<std::string>().empty())
                throw usage_error{argument + ": expected a value, but got an empty string"};
        a.limits.busy_poll = std::chrono::microseconds{busy_poll};
        raise_descriptor_limit();
        std::signal(SIGPIPE, SIG_IGN);  // the reader of stdout or stderr may be gone
        std::signal(SIGXFSZ, SIG_IGN);  // a file above the size limit is an error, not a signal
        check_system();
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
    } catch (const boost::system::system_error& e) {  // its what() names a line of Boost
        std::cerr << "nbd-serve: " << text_of(e.code()) << '\n';
        return 1;
    } catch (const std::exception& e) {
        std::cerr << "nbd-serve: " << e.what() << '\n';
        return 1;
    }
}
