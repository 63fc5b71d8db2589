// SPDX-License-Identifier: MIT
#include "growth.hpp"
#include <nbd/backend/null_backend.hpp>

#include <fstream>

#include <malloc.h>
#include <unistd.h>

/// Many exports in one server.
namespace bench::growth {

namespace {

namespace wire = nbd::protocol;

constexpr std::uint64_t disk_bytes = std::uint64_t{1} << 30;

std::string name_of_export(std::uint64_t i)
{
    auto digits = std::to_string(i);
    return "export-" + std::string(8 - std::min<std::size_t>(digits.size(), 8), '0') + digits;
}
void fill(nbd::export_set<nbd::null_backend>& set, std::uint64_t exports)
{
    for (std::uint64_t i = 0; i < exports; ++i)
        set.add(name_of_export(i), nbd::null_backend{disk_bytes});
}

figures add(std::uint64_t exports, const effort& e)
{
    using steady = std::chrono::steady_clock;
    nbd::export_set<nbd::null_backend> set;
    fill(set, exports);
    numbers random;
    return median_time(e, [&] {
        auto name = name_of_export(random.below(exports)) + "-another";
        const auto begin = steady::now();
        set.add(name, nbd::null_backend{disk_bytes});
        const auto end = steady::now();
        set.remove(name);
        return end - begin;
    });
}

/// Resident memory of this process, in KiB.
double resident()
{
    std::ifstream in{"/proc/self/statm"};
    double pages = 0;
    in >> pages >> pages;
    return pages * static_cast<double>(::sysconf(_SC_PAGESIZE)) / 1024;
}
figures memory(std::uint64_t exports, const effort&)
{
    ::malloc_trim(0);  // memory that earlier curves have freed would not count
    nbd::export_set<nbd::null_backend> set;
    const auto before = resident();
    fill(set, exports);
    return {(resident() - before) / static_cast<double>(exports)};
}

std::vector<std::byte> option(wire::option o, std::span<const std::byte> data)
{
    std::vector<std::byte> message(wire::option_header_bytes + data.size());
    wire::writer{message}
        .put(wire::option_magic)
        .put(o)
        .put(static_cast<std::uint32_t>(data.size()));
    std::ranges::copy(data, message.begin() + wire::option_header_bytes);
    return message;
}
/// Receives the replies to one option. *Returns* how many came before the acknowledgement.
std::uint64_t receive_replies(buffered& in)
{
    for (std::uint64_t replies = 0;; ++replies) {
        wire::reader header{in.take(wire::option_reply_header_bytes)};
        static_cast<void>(header.take<std::uint64_t>());
        static_cast<void>(header.take<std::uint32_t>());
        const auto type = static_cast<wire::option_reply>(header.take<std::uint32_t>());
        const auto length = header.take<std::uint32_t>();
        static_cast<void>(in.take(length));
        if (type == wire::option_reply::ack)
            return replies;
        if (type != wire::option_reply::info && type != wire::option_reply::server)
            throw std::runtime_error{"the server refuses an option"};
    }
}

figures info(std::uint64_t exports, const effort& e)
{
    constexpr std::size_t together = 64;  // in one send, so that the client costs the server little
    running<nbd::null_backend> server;
    fill(server.exports(), exports);
    auto socket = server.connect();
    greet(socket);
    buffered in{socket};
    numbers random;
    return server_cost(e, together, [&] {
        std::vector<std::byte> all;
        for (std::size_t i = 0; i < together; ++i) {
            const auto data = info_request(name_of_export(random.below(exports)));
            const auto one = option(wire::option::info, data);
            all.insert(all.end(), one.begin(), one.end());
        }
        socket.send(all);
        for (std::size_t i = 0; i < together; ++i)
            static_cast<void>(receive_replies(in));
    });
}

figures go_alone(std::uint64_t exports, const effort& e)
{
    using steady = std::chrono::steady_clock;
    running<nbd::null_backend> server;
    fill(server.exports(), exports);
    numbers random;
    return median_time(e, [&] {
        auto socket = server.connect();
        greet(socket);
        buffered in{socket};
        const auto request =
            option(wire::option::go, info_request(name_of_export(random.below(exports))));
        const auto begin = steady::now();
        socket.send(request);
        static_cast<void>(receive_replies(in));
        return steady::now() - begin;
    });
}

template <class Policy>
figures connect_and_go(std::uint64_t exports, const effort& e)
{
    running<nbd::null_backend, Policy> server;
    fill(server.exports(), exports);
    numbers random;
    return server_cost(e, 1, [&] {
        auto socket = server.connect();
        static_cast<void>(open_export(socket, name_of_export(random.below(exports))));
    });
}

figures list(std::uint64_t exports, const effort& e)
{
    running<nbd::null_backend> server;
    fill(server.exports(), exports);
    auto socket = server.connect();
    greet(socket);
    buffered in{socket};
    const auto request = option(wire::option::list, {});
    return server_cost(e, static_cast<double>(exports), [&] {
        socket.send(request);
        if (receive_replies(in) != exports)
            throw std::runtime_error{"LIST does not name every export"};
    });
}

}  // namespace

void add_exports(std::vector<curve>& to)
{
    const std::vector<std::uint64_t> points{1, 10, 100, 1'000, 10'000, 100'000};
    to.push_back({"exports/add", "exports().add", "time", "exports", "µs", points, add});
    to.push_back({"exports/memory",
                  "Memory of an export",
                  "resident memory",
                  "exports",
                  "KiB",
                  {1'000, 10'000, 100'000},
                  memory});
    to.push_back({"exports/info", "INFO, CPU", "one INFO", "exports", "µs", points, info});
    to.push_back(
        {"exports/go", "GO, time to the reply", "one GO", "exports", "µs", points, go_alone});
    to.push_back({"exports/connect-threads", "A new connection with GO, CPU",
                  policy_title<nbd::per_client_threads>(), "exports", "µs", points,
                  connect_and_go<nbd::per_client_threads>});
    to.push_back({"exports/connect-pool", "A new connection with GO, CPU",
                  policy_title<nbd::strand_pool>(), "exports", "µs", points,
                  connect_and_go<nbd::strand_pool>});
    to.push_back(
        {"exports/list", "LIST, CPU for each export", "LIST", "exports", "µs", points, list});
}

}  // namespace bench::growth
