// SPDX-License-Identifier: MIT
// nbd-serve: a server on the command line. `nbd-serve --help` tells what it can do.
#include <nbd/backend/null_backend.hpp>
#include <nbd/server.hpp>

#include <CLI/CLI.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/signal_set.hpp>

#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <iostream>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <sys/resource.h>

namespace {

/// Tells the whole story of each client on stderr, one line for each thing that happens.
struct narrator {
    bool verbose = false;

    void at_connect(const nbd::client& c) { say(c, "connected"); }
    void at_option(const nbd::client& c, const nbd::protocol::option_header& o)
    {
        say(c,
            "option " + std::to_string(static_cast<std::uint32_t>(o.option)) + " with "
                + std::to_string(o.length) + " bytes");
    }
    void at_export_opened(const nbd::client& c, std::string_view name,
                          const nbd::protocol::export_terms& t)
    {
        say(c,
            "export \"" + nbd::printable(name) + "\" of " + std::to_string(t.size)
                + " bytes, transmission flags " + std::to_string(t.flags));
    }
    void at_request(const nbd::client& c, const nbd::protocol::request& r)
    {
        if (verbose)
            say(c,
                "request " + std::string{name_of(r.command)} + " cookie " + std::to_string(r.cookie)
                    + " flags " + std::to_string(r.flags) + " offset " + std::to_string(r.offset)
                    + " length " + std::to_string(r.length));
    }
    void at_reply(const nbd::client& c, const nbd::protocol::request& r,
                  nbd::protocol::error_value error)
    {
        if (verbose)
            say(c,
                "reply to cookie " + std::to_string(r.cookie) + ": error value "
                    + std::to_string(static_cast<std::uint32_t>(error)));
    }
    void at_error(const nbd::client& c, std::error_code cause, std::string_view what)
    {
        say(c, std::string{what} + ": " + cause.message());
    }
    void at_disconnect(const nbd::client& c, std::error_code why)
    {
        say(c, why ? "let go: " + why.message() : "left");
    }
    void at_accept_error(std::error_code why)
    {
        if (verbose)
            std::fprintf(stderr, "nbd-serve: accept: %s\n", why.message().c_str());
    }

private:
    void say(const nbd::client& c, const std::string& what) const
    {
        if (verbose)
            std::fprintf(stderr, "client %llu (%s): %s\n", static_cast<unsigned long long>(c.id),
                         c.peer.c_str(), what.c_str());
    }
    static std::string_view name_of(nbd::protocol::command c)
    {
        using nbd::protocol::command;
        switch (c) {
        case command::read:
            return "READ";
        case command::write:
            return "WRITE";
        case command::disc:
            return "DISC";
        case command::flush:
            return "FLUSH";
        case command::trim:
            return "TRIM";
        case command::cache:
            return "CACHE";
        case command::write_zeroes:
            return "WRITE_ZEROES";
        case command::block_status:
            return "BLOCK_STATUS";
        default:
            return "unknown";
        }
    }
};

/// A bad argument: the message names it and says what was expected.
struct usage_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// "64M" and the like, in bytes.
std::uint64_t parse_size(const std::string& argument, std::string_view text)
{
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    unsigned shift = 0;
    const auto unit = text.substr(static_cast<std::size_t>(end - text.data()));
    if (!unit.empty()) {
        constexpr std::string_view units = "KMGT";
        const auto at = units.find(unit);
        if (unit.size() == 1 && at != std::string_view::npos)
            shift = 10 * static_cast<unsigned>(at + 1);
    }
    if (error != std::errc{} || (!unit.empty() && shift == 0)
        || number > (std::numeric_limits<std::uint64_t>::max() >> shift))
        throw usage_error{argument
                          + ": expected a number of bytes, with K, M, G or T for powers of "
                            "1024, but got \""
                          + std::string{text} + '"'};
    return number << shift;
}

nbd::block_sizes parse_block_sizes(const std::string& text)
{
    const auto first = text.find(':');
    const auto second = first == std::string::npos ? first : text.find(':', first + 1);
    if (second == std::string::npos)
        throw usage_error{"--block-size: expected MINIMUM:PREFERRED:MAXIMUM, but got \"" + text
                          + '"'};
    const auto part = [&text](std::size_t from, std::size_t to) {
        const auto size =
            parse_size("--block-size", std::string_view{text}.substr(from, to - from));
        if (size > std::numeric_limits<std::uint32_t>::max())
            throw usage_error{"--block-size: expected sizes below 4G, but got \"" + text + '"'};
        return static_cast<std::uint32_t>(size);
    };
    const nbd::block_sizes sizes{.minimum = part(0, first),
                                 .preferred = part(first + 1, second),
                                 .maximum = part(second + 1, text.size())};
    if (!nbd::protocol::valid(sizes))
        throw usage_error{"--block-size: expected powers of two, minimum up to 64K, preferred from "
                          "512 and not below the minimum, and a maximum not below that, but got \""
                          + text + '"'};
    return sizes;
}

nbd::tcp_transport::settings parse_tcp(const std::string& text)
{
    nbd::tcp_transport::settings at;
    const auto colon = text.rfind(':');
    const auto port =
        colon == std::string::npos ? std::string_view{} : std::string_view{text}.substr(colon + 1);
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), at.port);
    const auto host = std::string_view{text}.substr(0, colon);
    const bool brackets = host.starts_with('[') && host.ends_with(']') && host.size() > 2;
    if (port.empty() || error != std::errc{} || end != port.data() + port.size() || host.empty()
        || (!brackets && host.find_first_of("[]") != host.npos))
        throw usage_error{"--tcp: expected HOST:PORT with a port up to 65535, but got \"" + text
                          + '"'};
    at.address = brackets ? host.substr(1, host.size() - 2) : host;
    return at;
}

struct arguments {
    std::string disk;
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

template <class Backend, class Policy>
void serve(const arguments& a, std::uint64_t size, nbd::export_settings e,
           Policy policy(std::size_t))
{
    boost::asio::io_context program;
    boost::asio::signal_set signals{program, SIGINT, SIGTERM};

    const auto exports = std::make_shared<nbd::export_set<Backend>>();
    try {
        exports->emplace(a.name, std::move(e), size);
    } catch (const std::exception& error) {
        throw usage_error{a.disk + ": " + error.what()};
    }
    std::optional<nbd::server<nbd::unix_transport, Backend, Policy, narrator>> on_unix;
    std::optional<nbd::server<nbd::tcp_transport, Backend, Policy, narrator>> on_tcp;
    const auto start = [&](auto& server, const auto& listen_at, const std::string& argument) {
        server.emplace(exports, listen_at, a.limits, policy(a.threads), narrator{a.verbose});
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

template <class Backend>
void serve(const arguments& a, std::uint64_t size, nbd::export_settings e)
{
    if (a.policy == "pool")
        serve<Backend, nbd::strand_pool>(a, size, std::move(e), [](std::size_t threads) {
            return threads == 0 ? nbd::strand_pool{} : nbd::strand_pool{threads};
        });
    else
        serve<Backend, nbd::per_client_threads>(
            a, size, std::move(e), [](std::size_t) { return nbd::per_client_threads{}; });
}

void serve(arguments a)
{
    if (a.unix_path.empty() && a.tcp.empty())
        a.tcp = "127.0.0.1:10809";
    if (!a.tcp.empty())
        std::ignore = parse_tcp(a.tcp);
    nbd::export_settings e{.read_only = a.read_only};
    if (!a.description.empty())
        e.description = a.description;
    if (!a.block_size.empty())
        e.blocks = parse_block_sizes(a.block_size);

    const auto colon = a.disk.find(':');
    const auto kind = std::string_view{a.disk}.substr(0, colon);
    if (colon == std::string::npos || (kind != "mem" && kind != "null"))
        throw usage_error{"expected a disk as mem:SIZE or null:SIZE, but got \"" + a.disk + '"'};
    const auto size = parse_size(a.disk, std::string_view{a.disk}.substr(colon + 1));
    if (kind == "mem")
        serve<nbd::mem_backend>(a, size, std::move(e));
    else
        serve<nbd::null_backend>(a, size, std::move(e));
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
    app.add_option(
           "DISK", a.disk,
           "mem:SIZE, a sparse disk in memory, or null:SIZE, which reads as zero and forgets; "
           "sizes take K, M, G and T")
        ->required();
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
    app.add_option("--threads", a.threads, "threads of the pool; default: one for each core")
        ->check(CLI::Range(std::size_t{1}, std::size_t{1024}))
        ->type_name("N");
    app.add_option("--block-size", a.block_size, "the block sizes that clients must keep to")
        ->type_name("MIN:PREFERRED:MAX");
    app.add_option("--max-connections", a.limits.max_connections,
                   "clients at a time on each of --unix and --tcp, 0 for any number")
        ->capture_default_str()
        ->check(CLI::NonNegativeNumber)
        ->type_name("N");
    app.add_flag("--verbose", a.verbose, "tell on stderr what every client does");

    try {
        app.parse(argc, argv);
        for (const std::string argument : {"--unix", "--tcp", "--block-size"})
            if (app.count(argument) != 0 && app.get_option(argument)->as<std::string>().empty())
                throw usage_error{argument + ": expected a value, but got an empty one"};
        raise_descriptor_limit();
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
