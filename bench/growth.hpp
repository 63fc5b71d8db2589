// SPDX-License-Identifier: MIT
#pragma once

#include "open_export.hpp"
#include "place.hpp"
#include "processor_time.hpp"
#include "raw_socket.hpp"
#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/chunk.hpp>
#include <nbd/protocol/constants.hpp>
#include <nbd/protocol/request.hpp>
#include <nbd/server.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <sys/resource.h>
#include <sys/socket.h>

/// How the cost of a thing grows. The servers run in this process. The thread that measures is the
/// client, so the processor time of all other threads is the server's.
namespace bench::growth {

/// How long a point is measured: the median of `slices` times of `slice` each.
struct effort {
    std::chrono::duration<double> slice{0.05};
    std::size_t slices = 5;
};

/// What one thing costs.
struct figures {
    double cost = 0;    ///< in the unit of its curve
    double faults = 0;  ///< page faults of this process
};

/// One curve: what one thing costs if there are `x` of something.
struct curve {
    std::string name;    ///< GROUP/WHAT
    std::string panel;   ///< curves of one panel share a diagram
    std::string series;  ///< the name of the curve in its diagram
    std::string x;       ///< what is counted
    std::string unit;    ///< of the cost
    std::vector<std::uint64_t> points;
    /// *Returns* the cost at one point. *Errors*: `left_out`; any other ends the program.
    std::function<figures(std::uint64_t x, const effort&)> measure;
};

/// A point that this machine or the library does not allow.
struct left_out : std::runtime_error {
    using std::runtime_error::runtime_error;
};

void add_exports(std::vector<curve>& to);
void add_sizes(std::vector<curve>& to);
void add_extents(std::vector<curve>& to);
void add_flights(std::vector<curve>& to);
void add_clients(std::vector<curve>& to);

// --- Measuring ------------------------------------------------------------------------------

[[nodiscard]] inline double median(std::vector<double> values)
{
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

/// Page faults of this process, in which no file was read.
[[nodiscard]] inline double page_faults()
{
    ::rusage used{};
    ::getrusage(RUSAGE_SELF, &used);
    return static_cast<double>(used.ru_minflt);
}

/// Calls `once` repeatedly. *Returns* the server's processor time for one of the `things` of a
/// call, in µs: the median of the slices.
template <class F>
[[nodiscard]] figures server_cost(const effort& e, double things, F&& once)
{
    using steady = std::chrono::steady_clock;
    once();  // allocates memory and wakes threads
    std::vector<double> times;
    std::vector<double> faults;
    for (std::size_t i = 0; i < e.slices; ++i) {
        const auto end = steady::now() + e.slice;
        const auto faults_before = page_faults();
        const auto before = other_threads_seconds();
        double all = 0;
        do {
            once();
            all += things;
        } while (steady::now() < end);
        times.push_back((other_threads_seconds() - before) * 1e6 / all);
        faults.push_back((page_faults() - faults_before) / all);
    }
    return {median(std::move(times)), median(std::move(faults))};
}
/// *Returns* the median of the times, in µs, that `once` returns.
template <class F>
[[nodiscard]] figures median_time(const effort& e, F&& once)
{
    using steady = std::chrono::steady_clock;
    std::vector<double> times;
    const auto faults_before = page_faults();
    const auto end = steady::now() + e.slice * static_cast<double>(e.slices);
    do
        times.push_back(std::chrono::duration<double, std::micro>{once()}.count());
    while (steady::now() < end);
    const auto faults = (page_faults() - faults_before) / static_cast<double>(times.size());
    return {median(std::move(times)), faults};
}

/// A fast generator of numbers, the same in every run.
class numbers {
public:
    /// A number below `end`.
    [[nodiscard]] std::uint64_t below(std::uint64_t end) noexcept
    {
        state_ = state_ * 6364136223846793005 + 1442695040888963407;
        const auto mixed = (state_ >> 32 ^ state_) * 0x9e3779b97f4a7c15;
        return (mixed ^ mixed >> 29) % end;
    }

private:
    std::uint64_t state_ = 1;
};

// --- Servers --------------------------------------------------------------------------------

/// Settings without the limits that a curve would meet. The server does not poll, because the time
/// of polling would hide the cost of requests.
[[nodiscard]] inline nbd::settings without_limits()
{
    nbd::settings s;
    s.max_connections = 0;
    s.places_per_peer = 0;
    s.handshake_deadline = {};
    s.options_per_handshake = 1U << 30;
    s.handshake_bytes = std::size_t{1} << 40;
    s.exports_listed = 1U << 20;
    s.busy_poll = {};
    return s;
}

template <class Policy>
inline constexpr std::string_view policy_name{};
template <>
inline constexpr std::string_view policy_name<nbd::per_client_threads> = "threads";
template <>
inline constexpr std::string_view policy_name<nbd::strand_pool> = "pool";
template <class Policy>
[[nodiscard]] std::string policy_title()
{
    return std::is_same_v<Policy, nbd::strand_pool> ? "a pool of two threads"
                                                    : "a thread for each client";
}

/// A server on a UNIX socket.
template <class Backend, class Policy = nbd::per_client_threads>
class running {
public:
    explicit running(nbd::settings s = without_limits())
        : server_{here_.settings(), std::move(s), policy()}
    {
        server_.start();
    }

    [[nodiscard]] nbd::export_set<Backend>& exports() noexcept { return server_.exports(); }
    [[nodiscard]] raw_socket connect() const
    {
        const auto& at = server_.local_endpoint();
        return {at.data(), static_cast<::socklen_t>(at.size())};
    }

private:
    [[nodiscard]] static Policy policy()
    {
        if constexpr (std::is_same_v<Policy, nbd::strand_pool>)
            return nbd::strand_pool{2};
        else
            return Policy{};
    }

    place<nbd::unix_transport> here_;
    nbd::server<nbd::unix_transport, Backend, Policy> server_;
};

// --- The client -----------------------------------------------------------------------------

/// Receives many small messages with few system calls.
class buffered {
public:
    explicit buffered(raw_socket& socket) : socket_{socket}, bytes_(std::size_t{256} << 10) {}

    /// The next `n` bytes; valid until the next call.
    [[nodiscard]] std::span<const std::byte> take(std::size_t n)
    {
        if (end_ - begin_ < n) {
            std::memmove(bytes_.data(), bytes_.data() + begin_, end_ - begin_);
            end_ -= std::exchange(begin_, 0);
            bytes_.resize(std::max(bytes_.size(), n));
            while (end_ < n)
                end_ += socket_.receive_some(std::span{bytes_}.subspan(end_));
        }
        begin_ += n;
        return std::span{bytes_}.subspan(begin_ - n, n);
    }
    [[nodiscard]] raw_socket& socket() noexcept { return socket_; }

private:
    raw_socket& socket_;
    std::vector<std::byte> bytes_;
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
};

/// Sends the requests, and receives as many simple replies with `data` bytes each.
inline void exchange_simple(buffered& in, std::span<const std::byte> requests, std::size_t count,
                            std::size_t data)
{
    namespace wire = nbd::protocol;
    in.socket().send(requests);
    for (std::size_t i = 0; i < count; ++i) {
        wire::reader reply{in.take(wire::simple_reply_bytes + data)};
        if (reply.take<std::uint32_t>() != wire::simple_reply_magic
            || reply.take<std::uint32_t>() != 0)
            throw std::runtime_error{"a reply is an error or invalid"};
    }
}

/// Receives the chunks of one reply. Calls `f(type, payload)` for each.
template <class F>
void receive_chunks(buffered& in, nbd::protocol::reply_style style, F&& f)
{
    namespace wire = nbd::protocol;
    const bool wide = style == wire::reply_style::extended;
    for (bool done = false; !done;) {
        wire::reader header{in.take(wire::chunk_bytes(style))};
        const auto magic = header.take<std::uint32_t>();
        done = (header.take<std::uint16_t>() & wire::reply_flag::done) != 0;
        const auto type = static_cast<wire::chunk>(header.take<std::uint16_t>());
        static_cast<void>(header.take<std::uint64_t>());
        if (wide)
            static_cast<void>(header.take<std::uint64_t>());
        const auto length =
            wide ? header.take<std::uint64_t>() : std::uint64_t{header.take<std::uint32_t>()};
        if (magic != (wide ? wire::extended_reply_magic : wire::structured_reply_magic)
            || type == wire::chunk::error || type == wire::chunk::error_offset)
            throw std::runtime_error{"a reply is an error or invalid"};
        f(type, in.take(static_cast<std::size_t>(length)));
    }
}

/// Appends a request.
inline void append_request(std::vector<std::byte>& to, const nbd::protocol::request& r)
{
    namespace wire = nbd::protocol;
    const auto at = to.size();
    if (!r.extended) {
        to.resize(at + wire::request_bytes);
        wire::encode_request(std::span{to}.subspan(at).first<wire::request_bytes>(), r);
        return;
    }
    to.resize(at + wire::extended_request_bytes);
    wire::writer{std::span{to}.subspan(at)}
        .put(wire::extended_request_magic)
        .put(r.flags)
        .put(r.command)
        .put(r.cookie)
        .put(r.offset)
        .put(r.length);
}

/// The handshake with chunks and the context base:allocation.
inline void open_with_chunks(raw_socket& socket, std::string_view name,
                             nbd::protocol::reply_style style)
{
    namespace wire = nbd::protocol;
    constexpr std::string_view context = "base:allocation";
    greet(socket);
    const auto o = style == wire::reply_style::extended ? wire::option::extended_headers
                                                        : wire::option::structured_reply;
    if (option_talk{socket, o, {}}.next() != wire::option_reply::ack)
        throw std::runtime_error{"the server refuses chunks"};
    std::vector<std::byte> wanted(4 + name.size() + 4 + 4 + context.size());
    wire::writer{wanted}
        .put(static_cast<std::uint32_t>(name.size()))
        .put_text(name)
        .put(std::uint32_t{1})
        .put(static_cast<std::uint32_t>(context.size()))
        .put_text(context);
    option_talk talk{socket, wire::option::set_meta_context, wanted};
    if (talk.next() != wire::option_reply::meta_context || talk.next() != wire::option_reply::ack)
        throw std::runtime_error{"the server refuses base:allocation"};
    static_cast<void>(go(socket, name));
}

}  // namespace bench::growth
