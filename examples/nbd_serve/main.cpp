// SPDX-License-Identifier: MIT
// nbd-serve: a server for the command line. `nbd-serve --help` lists its arguments.
#include "access.hpp"
#include "activation.hpp"
#include "arguments.hpp"
#include "captive.hpp"
#include "serve.hpp"
#include "system.hpp"

#include <CLI/CLI.hpp>
#include <boost/system/system_error.hpp>

#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iostream>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include <sys/resource.h>

namespace {

/// Places from which clients are told that they may open several connections. Copy programs open
/// four.
constexpr std::size_t least_for_multi_conn = 8;

/// Checks where to listen. `folder`: for the socket of --run.
void check_listening(arguments& a, std::optional<private_folder>& folder)
{
    const char* const listens = !a.unix_path.empty() ? "--unix"
        : !a.tcp.empty()                             ? "--tcp"
        : !a.vsock.empty()                           ? "--vsock"
                                                     : nullptr;
    if (a.stdio && listens != nullptr)
        throw usage_error{"--stdio: expected without --unix, --tcp and --vsock"};
    if (a.stdio && !a.run.empty())
        throw usage_error{"--stdio: expected without --run"};
    if (a.stdio && !a.attach.device.empty())
        throw usage_error{"--stdio: expected without --attach"};
    a.passed = take_sockets(a.socket_activation,
                            a.stdio                  ? "--stdio"
                                : listens != nullptr ? listens
                                : !a.run.empty()     ? "--run"
                                                     : nullptr);
    const bool is_attached_only = !a.attach.device.empty() && listens == nullptr;
    if (listens == nullptr && !a.run.empty() && !is_attached_only)
        a.unix_path = folder.emplace().path() + "/socket";
    else if (listens == nullptr && !a.stdio && a.passed.empty() && !is_attached_only)
        a.tcp = "127.0.0.1:10809";
    if (!a.tcp.empty())
        std::ignore = parse_tcp(a.tcp);
    if (!a.vsock.empty())
        std::ignore = parse_vsock(a.vsock);
    std::ignore = parse_unix(a.unix_path);
}

/// *Returns* the exit status.
int serve(arguments a)
{
    std::optional<private_folder> folder;
    check_listening(a, folder);
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
    if (disk.kind != "rbd" && !(a.ceph_conf.empty() && a.ceph_id.empty()))
        throw usage_error{std::string{a.ceph_conf.empty() ? "--ceph-id" : "--ceph-conf"}
                          + ": expected a disk of rbd:POOL/IMAGE, but got \"" + a.disk + '"'};
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
        return serve_mem(a, disk, std::move(e));
    if (disk.kind == "null")
        return serve_null(a, disk, std::move(e));
    if (disk.kind == "file")
        return serve_file(a, disk, std::move(e));
    if (disk.kind == "rbd") {
#ifdef NBD_SERVE_RBD
        disk.rbd.ceph_conf = a.ceph_conf;
        disk.rbd.ceph_id = a.ceph_id;
        disk.rbd.read_only = a.read_only;
        disk.rbd.exclusive = a.lock == "exclusive";
        return serve_rbd(a, disk, std::move(e));
#else
        throw usage_error{a.disk + ": this nbd-serve was built without librbd"};
#endif
    }
#ifdef NBD_SERVE_URING
    return serve_uring(a, disk, std::move(e));
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

/// What to serve.
void add_disk_options(CLI::App& app, arguments& a)
{
    app.add_option(
           "DISK", a.disk,
           "mem:SIZE is a sparse disk in memory, as large as the address space allows (about 127T, "
           "or what ulimit -v leaves); null:SIZE reads as zero and discards writes; file:PATH is a "
           "file or a block device, whose size is read again for each client that opens it; "
           "uring:PATH is the same through io_uring; rbd:POOL/IMAGE, rbd:POOL/NAMESPACE/IMAGE, "
           "and either with @SNAPSHOT, is an image of Ceph. SIZE is in bytes, or with K, M, G or T "
           "in powers of 1024")
        ->required();
    app.add_option(
           "--create", a.create,
           "create the file of file:PATH or uring:PATH with this size; an existing file must "
           "have this size")
        ->type_name("SIZE");
    app.add_flag("--direct", a.direct,
                 "bypass the page cache (O_DIRECT); for file:PATH and uring:PATH");
    app.add_option("--lock", a.lock,
                   "for file:PATH and uring:PATH, against other programs such as qemu-img. "
                   "exclusive: others cannot write, and can read only with --read-only; shared: "
                   "programs that share the file too can use it; off: no locks. Default: "
                   "exclusive. For rbd:POOL/IMAGE, exclusive: no other client of the cluster "
                   "can write; shared and off: clients take turns")
        ->check(CLI::IsMember({"exclusive", "shared", "off"}))
        ->type_name("exclusive|shared|off");
    app.add_option("--ceph-conf", a.ceph_conf,
                   "the configuration for rbd:POOL/IMAGE; default: $CEPH_CONF, "
                   "/etc/ceph/ceph.conf, ~/.ceph/config or ceph.conf")
        ->type_name("FILE");
    app.add_option("--ceph-id", a.ceph_id, "the user of Ceph, without \"client.\"; default: admin")
        ->type_name("NAME");
}

/// Where clients come in.
void add_listening_options(CLI::App& app, arguments& a)
{
    app.add_option(
           "--unix", a.unix_path,
           "listen on this UNIX socket, which is created with mode 0600; @NAME is an abstract "
           "socket, whose URI not all clients can read")
        ->type_name("PATH");
    app.add_option(
           "--tcp", a.tcp,
           "listen on this address, or on all addresses of this host name; port 0 is any free "
           "port. Default: 127.0.0.1:10809, unless --unix, --vsock, --stdio or --run is given, or "
           "a "
           "service manager passes sockets")
        ->type_name("HOST:PORT");
    app.add_option(
           "--vsock", a.vsock,
           "listen for virtual machines, or for the host of this one; CID is a number, or any")
        ->type_name("CID:PORT");
    app.add_flag("--stdio", a.stdio,
                 "serve one client on stdin and stdout, a socket or two pipes, and end with it");
    app.add_flag("--socket-activation", a.socket_activation,
                 "demand sockets of a service manager (LISTEN_FDS); without this option they are "
                 "used if there are any");
    app.add_option("--run", a.run,
                   "run sh -c COMMAND with $uri and $unixsocket set, serve until it ends, and end "
                   "with its exit status; without an address, on a private UNIX socket")
        ->type_name("COMMAND");
}

/// The block device of the kernel.
void add_attach_options(CLI::App& app, arguments& a)
{
    app.add_option(
           "--attach", a.attach.device,
           "make the disk a block device of this machine: /dev/nbdN, or any; needs root. Without "
           "an address, no other client can connect")
        ->type_name("DEVICE");
    app.add_option("--attach-connections", a.attach.connections,
                   "number of connections and queues of the device")
        ->capture_default_str()
        ->check(CLI::Range(std::size_t{1}, std::size_t{64}))
        ->type_name("N");
    const auto add_time = [&](const char* name, std::chrono::milliseconds& time, const char* help) {
        app.add_option_function<std::string>(
               name, [name, &time](const std::string& text) { time = parse_seconds(name, text); },
               help)
            ->default_str("0")
            ->type_name("SECONDS");
    };
    add_time("--attach-timeout", a.attach.timeout,
             "how long the kernel waits for a reply; 0: as long as it takes");
    add_time("--attach-dead-timeout", a.attach.dead_timeout,
             "how long requests wait for another nbd-serve of the same file, with the same "
             "--attach, after this one has been killed; 0: they fail");
    add_time("--attach-wait", a.attach.wait, "how long to wait for a device that is in use");
}

/// TLS.
void add_tls_options(CLI::App& app, arguments& a)
{
    app.add_option(
           "--tls", a.tls.mode,
           "off: no TLS; on: clients can use TLS; require: clients must use TLS. Default: off. "
           "SIGUSR1 loads certificates and keys again")
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
}

/// What clients see.
void add_export_options(CLI::App& app, arguments& a)
{
    app.add_option(
           "--name", a.name,
           "the export's name; default: empty. A client that asks for the empty name gets the "
           "export in any case")
        ->type_name("NAME");
    app.add_option("--description", a.description,
                   "the export's description, for clients that list exports")
        ->type_name("TEXT");
    app.add_flag("--read-only", a.read_only, "refuse writes");
    app.add_option("--block-size", a.block_size,
                   "minimum, preferred and maximum block size, in bytes; clients must use them")
        ->type_name("MIN:PREFERRED:MAX");
}

/// Threads, and limits for clients.
void add_limit_options(CLI::App& app, arguments& a)
{
    app.add_option("--policy", a.policy,
                   "per-client: a thread for each client; pool: a pool of threads for all clients. "
                   "Default: per-client")
        ->check(CLI::IsMember({"per-client", "pool"}))
        ->type_name("per-client|pool");
    app.add_option("--threads", a.threads,
                   "number of threads of --policy pool; default: one for each processor core")
        ->check(CLI::Range(std::size_t{1}, std::size_t{1024}))
        ->type_name("N");
    app.add_option("--max-connections", a.limits.max_connections,
                   "largest number of clients; 0: no limit. Others wait up to ten "
                   "seconds for a place. With fewer than 8, clients are not told that they may "
                   "open several connections")
        ->capture_default_str()
        ->check(CLI::Range(std::size_t{0}, std::size_t{1'000'000}))
        ->type_name("N");
    const auto add_places = [&app](const char* option, std::size_t& places, const char* help) {
        app.add_option(option, places, help)
            ->capture_default_str()
            ->check(CLI::Range(std::size_t{0}, std::size_t{1'000'000}))
            ->type_name("N");
    };
    add_places("--places-per-peer", a.limits.places_per_peer,
               "when all places are taken, an IP address, or a user of a UNIX socket, with more "
               "connections gives one up for another client; 0: none does");
    add_places("--places-per-identity", a.limits.places_per_identity,
               "the same for an identity of TLS, from any address; 0: none does");
    app.add_option("--requests-in-flight", a.limits.requests_in_flight,
                   "largest number of requests of one client in progress, for disks that wait")
        ->capture_default_str()
        ->check(CLI::Range(std::size_t{1}, std::size_t{65536}))
        ->type_name("N");
    app.add_option_function<std::uint32_t>(
           "--busy-poll",
           [&a](std::uint32_t time) { a.limits.busy_poll = std::chrono::microseconds{time}; },
           "how long a thread polls for the next request before it sleeps; 0: never")
        ->default_str(std::to_string(a.limits.busy_poll.count()))
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
    app.add_option_function<std::string>(
           "--user-timeout",
           [&a](const std::string& text) {
               a.user_timeout = parse_seconds("--user-timeout", text);
           },
           "how long a client may leave sent bytes without an acknowledgement, or take none, over "
           "TCP; 0: the system decides")
        ->default_str(std::to_string(
            std::chrono::duration_cast<std::chrono::seconds>(a.user_timeout).count()))
        ->type_name("SECONDS");
    app.add_option("--least-transfer-rate", a.limits.least_transfer_rate,
                   "a slower client is disconnected when it is late by --progress-timeout or "
                   "--send-timeout, or when another one needs its memory; 0: none is too slow")
        ->capture_default_str()
        ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 40))
        ->type_name("BYTES-PER-SECOND");
}

}  // namespace

int main(int argc, char** argv)
{
    arguments a;
    CLI::App app{"Serves a disk to NBD clients, until SIGINT, SIGTERM or SIGHUP.", "nbd-serve"};
    add_disk_options(app, a);
    add_listening_options(app, a);
    add_attach_options(app, a);
    add_tls_options(app, a);
    add_access_options(app, a.access);
    add_export_options(app, a);
    add_limit_options(app, a);
    app.add_flag("--verbose", a.verbose, "log to stderr what each client does");

    try {
        app.parse(argc, argv);
        for (const std::string argument :
             {"--create", "--unix", "--tcp", "--vsock", "--block-size", "--tls-certificates",
              "--tls-psk", "--run", "--ceph-conf", "--ceph-id", "--attach"})
            if (app.count(argument) != 0 && app.get_option(argument)->as<std::string>().empty())
                throw usage_error{argument + ": expected a value, but got an empty string"};
        raise_descriptor_limit();
        std::signal(SIGPIPE, SIG_IGN);  // the reader of stdout or stderr may be gone
        std::signal(SIGXFSZ, SIG_IGN);  // a file above the size limit is an error, not a signal
        check_system();
        return serve(std::move(a));
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
