// SPDX-License-Identifier: MIT
#include "growth.hpp"
#include <nbd/vocabulary/extent_list.hpp>

#include <limits>
#include <system_error>

/// Exports of many extents.
namespace bench::growth {

namespace wire = nbd::protocol;

/// Data and holes alternate, in stripes of one length. It finds each extent by a division.
class striped_disk {
public:
    static constexpr nbd::concurrency concurrency = nbd::concurrency::parallel;
    static constexpr bool fills_reads = true;

    striped_disk(std::uint64_t stripes, std::uint64_t bytes) : size_{stripes * bytes}, bytes_{bytes}
    {
    }

    [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
    std::error_code read(std::uint64_t, std::span<std::byte> to) noexcept
    {
        std::fill(to.begin(), to.end(), std::byte{0x5a});
        return {};
    }
    std::error_code extents(std::uint64_t offset, std::uint64_t, nbd::extent_list& to)
    {
        using namespace wire::state_flag;
        for (bool more = true; more;) {
            const auto end = (offset / bytes_ + 1) * bytes_;
            more = to.add(end - offset, offset / bytes_ % 2 == 0 ? 0 : hole | zero);
            offset = end;
        }
        return {};
    }

private:
    std::uint64_t size_;
    std::uint64_t bytes_;
};

namespace {

constexpr std::uint64_t stripe = 4096;

/// A client of a striped disk.
struct striped {
    striped(std::uint64_t stripes, std::uint64_t bytes)
    {
        server.exports().emplace("disk", {}, stripes, bytes);
        open_with_chunks(socket, "disk", wire::reply_style::structured);
    }
    template <class F>
    void receive(F&& f)
    {
        receive_chunks(in, wire::reply_style::structured, std::forward<F>(f));
    }

    running<striped_disk> server;
    raw_socket socket = server.connect();
    buffered in{socket};
};

figures all(std::uint64_t extents, const effort& e)
{
    striped s{extents, stripe};
    return server_cost(e, static_cast<double>(extents), [&] {
        const auto end = extents * stripe;
        std::uint64_t descriptors = 0;
        for (std::uint64_t at = 0; at != end;) {
            std::vector<std::byte> request;
            append_request(request,
                           {.command = wire::command::block_status,
                            .offset = at,
                            .length = std::min(end - at, std::uint64_t{0xfffff000})});
            s.socket.send(request);
            s.receive([&](wire::chunk, std::span<const std::byte> payload) {
                wire::reader reply{payload};
                static_cast<void>(reply.take<std::uint32_t>());
                for (; reply.left() != 0; ++descriptors) {
                    at += reply.take<std::uint32_t>();
                    static_cast<void>(reply.take<std::uint32_t>());
                }
            });
        }
        if (descriptors != extents)
            throw std::runtime_error{"BLOCK_STATUS does not report every extent"};
    });
}

figures one(std::uint64_t extents, const effort& e)
{
    constexpr std::size_t together = 16;
    striped s{extents, stripe};
    numbers random;
    std::vector<std::byte> requests;
    return server_cost(e, together, [&] {
        requests.clear();
        for (std::size_t i = 0; i < together; ++i) {
            const auto at = random.below(extents);
            append_request(
                requests,
                {.flags = wire::command_flag::req_one,
                 .command = wire::command::block_status,
                 .offset = at * stripe,
                 .length = std::min<std::uint64_t>((extents - at) * stripe, 0xfffff000)});
        }
        s.socket.send(requests);
        for (std::size_t i = 0; i < together; ++i)
            s.receive([](wire::chunk, std::span<const std::byte>) {});
    });
}

/// A structured READ of `length` bytes across stripes of `bytes`. *Returns* the CPU for it.
figures read(std::uint64_t length, std::uint64_t bytes, const effort& e)
{
    striped s{length / bytes, bytes};
    std::vector<std::byte> request;
    append_request(request, {.command = wire::command::read, .length = length});
    return server_cost(e, 1, [&] {
        s.socket.send(request);
        std::uint64_t got = 0;
        s.receive([&](wire::chunk type, std::span<const std::byte> payload) {
            wire::reader reply{payload};
            static_cast<void>(reply.take<std::uint64_t>());
            if (type == wire::chunk::offset_data)
                got += reply.left();
            else if (type == wire::chunk::offset_hole)
                got += reply.take<std::uint32_t>();
        });
        if (got != length)
            throw std::runtime_error{"the chunks of a READ do not cover it"};
    });
}
figures read_long(std::uint64_t length, const effort& e)
{
    const auto whole = read(length, stripe, e);
    const double mib = static_cast<double>(length) / (1 << 20);
    return {whole.cost / mib, whole.faults / mib};
}
figures read_divided(std::uint64_t extents, const effort& e)
{
    constexpr std::uint64_t mib = 1 << 20;
    return read(mib, mib / extents, e);
}

}  // namespace

void add_extents(std::vector<curve>& to)
{
    constexpr std::uint64_t mib = 1 << 20;
    const std::vector<std::uint64_t> points{1, 10, 100, 1'000, 10'000, 100'000, 1'000'000};
    to.push_back({"extents/all", "BLOCK_STATUS of all, CPU for each extent", "all extents",
                  "extents", "µs", points, all});
    to.push_back({"extents/one", "BLOCK_STATUS of one extent, CPU", "one of them", "extents", "µs",
                  points, one});
    to.push_back({"extents/read",
                  "Structured READ of 4 KiB extents, CPU for each MiB",
                  "READ",
                  "bytes",
                  "µs",
                  {mib / 4, mib, 2 * mib, 4 * mib, 8 * mib, 16 * mib, 32 * mib},
                  read_long});
    to.push_back({"extents/read-divided",
                  "Structured READ of 1 MiB, CPU",
                  "READ",
                  "extents",
                  "µs",
                  {1, 2, 4, 8, 16, 32, 64, 128, 256},
                  read_divided});
}

}  // namespace bench::growth
