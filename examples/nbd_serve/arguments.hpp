// SPDX-License-Identifier: MIT
// The arguments of nbd-serve.
#pragma once

#include <nbd/backend/opened_file.hpp>
#include <nbd/backend/rbd_settings.hpp>
#include <nbd/concepts/facts.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/protocol/terms.hpp>
#include <nbd/settings.hpp>
#include <nbd/transport/tcp_transport.hpp>
#include <nbd/transport/vsock_transport.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include <fcntl.h>

/// A bad argument. The message names the argument and says what was expected.
struct usage_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// Parses a size such as "64M"; returns bytes.
inline std::uint64_t parse_size(const std::string& argument, std::string_view text)
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

/// Parses a time in seconds such as "60" or "0.5".
inline std::chrono::milliseconds parse_seconds(const std::string& argument, std::string_view text)
{
    double seconds = -1;
    const auto* const last = text.data() + text.size();
    const auto [end, error] = std::from_chars(text.data(), last, seconds, std::chars_format::fixed);
    if (error != std::errc{} || end != last || !(seconds >= 0 && seconds <= 1e9))
        throw usage_error{argument
                          + ": expected seconds from 0 to 1000000000, such as 60 or 0.5, but got \""
                          + std::string{text} + '"'};
    return std::chrono::milliseconds{std::llround(std::ceil(seconds * 1000))};
}

/// An option whose value is a time in seconds.
struct time_option {
    const char* name;
    std::chrono::milliseconds nbd::settings::*limit;
    const char* help;
};
inline constexpr std::array time_options{
    time_option{"--handshake-deadline", &nbd::settings::handshake_deadline,
                "longest handshake, and longest wait for a place; 0: no limit"},
    time_option{"--idle-timeout", &nbd::settings::idle_timeout,
                "longest wait between two requests of a client; 0: no limit"},
    time_option{"--progress-timeout", &nbd::settings::progress_timeout,
                "longest wait for the rest of a request; 0: no limit. A client that stops may go "
                "on later, unless another one needs its place or memory"},
    time_option{"--send-timeout", &nbd::settings::send_timeout,
                "longest wait until a client takes some of its replies; 0: no limit, as above"},
    time_option{"--stall-grace", &nbd::settings::stall_grace,
                "how long a client must have moved no byte, with requests under way, before it is "
                "disconnected for another one that needs its place or memory"},
    time_option{"--evict-idle-after", &nbd::settings::evict_idle_after,
                "how long a client must have been without requests before it is disconnected for "
                "another one that needs its place; 0: never"},
    time_option{"--stop-grace", &nbd::settings::stop_grace,
                "at the end, how long requests under way may take"}};

inline nbd::block_sizes parse_block_sizes(const std::string& text)
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

inline nbd::tcp_transport::settings parse_tcp(const std::string& text)
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

/// *Returns* the path of --unix for unix_transport: "@name" is an abstract socket.
inline std::string parse_unix(const std::string& text)
{
    if (text == "@")
        throw usage_error{"--unix: expected a name after @, but got \"@\""};
    return text.starts_with('@') ? '\0' + text.substr(1) : text;
}

/// Parses CID:PORT, where CID may be "any".
inline nbd::vsock_transport::settings parse_vsock(const std::string& text)
{
    nbd::vsock_transport::settings at;
    const auto colon = std::min(text.find(':'), text.size());
    const auto number = [](std::string_view from, std::uint32_t& to) {
        const auto* const last = from.data() + from.size();
        const auto [end, error] = std::from_chars(from.data(), last, to);
        return error == std::errc{} && end == last && to != nbd::vsock_transport::any;
    };
    const auto cid = std::string_view{text}.substr(0, colon);
    if (colon == text.size() || !number(std::string_view{text}.substr(colon + 1), at.port)
        || (cid != "any" && !number(cid, at.cid)))
        throw usage_error{"--vsock: expected CID:PORT, two numbers below 4294967295, or any:PORT, "
                          "but got \""
                          + text + '"'};
    return at;
}

/// Checks a text that clients see.
inline void check_string(const std::string& argument, const std::string& text)
{
    if (!nbd::protocol::valid_string(text))
        throw usage_error{argument + ": expected UTF-8 of at most 4096 bytes, but got "
                          + std::to_string(text.size()) + " bytes"};
}

/// The lists of --allow and --deny, one string for each time that the option is given.
struct access_arguments {
    std::vector<std::string> allow{};
    std::vector<std::string> deny{};
};

struct tls_arguments {
    std::string mode = "off";
    std::string certificates{};
    std::string psk{};
    bool verify_peer = false;
};

struct attach_arguments {
    std::string device{};  ///< "any" is any free device; empty: none
    std::size_t connections = 1;
    std::chrono::milliseconds timeout{0};
    std::chrono::milliseconds dead_timeout{0};
    std::chrono::milliseconds wait{0};
};

/// A stream socket of a service manager; a server takes it over.
struct passed_socket {
    int descriptor = -1;
    int family = 0;
    bool listens = false;  ///< otherwise it is connected
};

/// The command line, but for what parse_disk makes of DISK.
struct arguments {
    std::string disk;
    std::string create;
    bool direct = false;
    std::string lock = "exclusive";
    std::string ceph_conf;
    std::string ceph_id;

    std::string unix_path;
    std::string tcp;
    std::string vsock;
    bool stdio = false;
    bool socket_activation = false;
    std::vector<passed_socket> passed;
    attach_arguments attach;
    tls_arguments tls;
    access_arguments access;

    std::string name;
    std::string description;
    bool read_only = false;
    std::string block_size;

    std::string policy = "per-client";
    std::size_t threads = 0;
    nbd::settings limits;
    std::chrono::milliseconds user_timeout = nbd::tcp_transport::settings{}.user_timeout;
    bool verbose = false;
    std::string run;

    /// Whether clients can connect, or one is connected.
    [[nodiscard]] bool listens() const noexcept
    {
        return stdio || !unix_path.empty() || !tcp.empty() || !vsock.empty() || !passed.empty();
    }
};

/// What the system permits for a file or a block device.
struct permitted {
    bool writes = true;  ///< false for a device that is read-only
    bool locks = true;   ///< false on a file system without locks
};
inline permitted look_at(const std::string& path)
{
    using system = nbd::posix_file;
    permitted found;
    if (system::holds_data(path.c_str()) != 1)
        return found;
    const int file = system::open(path.c_str(), O_RDONLY, false);
    if (file < 0)
        return found;
    nbd::file_facts facts;
    found.writes = system::facts(file, facts) != 0 || !facts.read_only;
    found.locks = system::is_byte_locked(file, 0) >= 0;
    system::close(file);
    return found;
}

/// The disk: "mem:SIZE", "null:SIZE", "file:PATH", "uring:PATH" or "rbd:POOL/IMAGE", and the
/// options for its file or image.
struct disk_arguments {
    std::string text;  ///< the argument itself
    std::string kind{};
    std::uint64_t size = 0;  ///< of mem and null
    std::string path{};      ///< of file and uring
    nbd::file_settings file{};
    nbd::rbd_settings rbd{};

    [[nodiscard]] bool in_file() const noexcept { return kind == "file" || kind == "uring"; }
};

/// Parses POOL/IMAGE@SNAPSHOT or POOL/NAMESPACE/IMAGE@SNAPSHOT. *Returns* false if it is neither.
inline bool parse_image(std::string_view text, nbd::rbd_settings& to)
{
    const auto at = text.rfind('@');
    to.snapshot = at == text.npos ? std::string_view{} : text.substr(at + 1);
    const auto path = text.substr(0, at);
    const auto first = path.find('/');
    const auto last = path.rfind('/');
    if (first == path.npos || (at != text.npos && to.snapshot.empty()))
        return false;
    to.pool = path.substr(0, first);
    to.image = path.substr(last + 1);
    if (first != last)
        to.name_space = path.substr(first + 1, last - first - 1);
    return !to.pool.empty() && !to.image.empty() && to.name_space.find('/') == std::string::npos
        && (first == last || !to.name_space.empty());
}

inline disk_arguments parse_disk(const std::string& text)
{
    const auto colon = text.find(':');
    disk_arguments disk{.text = text, .kind = text.substr(0, colon)};
    const auto rest = colon == std::string::npos ? std::string{} : text.substr(colon + 1);
    const bool known = disk.in_file() ? !rest.empty()
        : disk.kind == "rbd"          ? parse_image(rest, disk.rbd)
                                      : disk.kind == "mem" || disk.kind == "null";
    if (colon == std::string::npos || !known)
        throw usage_error{"DISK: expected mem:SIZE, null:SIZE, file:PATH, uring:PATH or "
                          "rbd:POOL/IMAGE, but got \""
                          + text + '"'};
    if (disk.in_file())
        disk.path = rest;
    else if (disk.kind != "rbd")
        disk.size = parse_size(text, rest);
    if (disk.size > std::uint64_t{std::numeric_limits<std::int64_t>::max()})
        throw usage_error{text + ": expected a size below 2^63 bytes, which is 8388608T"};
    return disk;
}
