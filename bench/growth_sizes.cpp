// SPDX-License-Identifier: MIT
#include "growth.hpp"
#include <nbd/backend/null_backend.hpp>

#include <limits>
#include <system_error>

/// Large exports.
namespace bench::growth {

namespace {

namespace wire = nbd::protocol;

constexpr std::size_t block = 4096;
constexpr std::size_t together = 16;  // requests in one send

template <class Backend>
Backend disk(std::uint64_t bytes)
{
    try {
        return Backend{bytes};
    } catch (const std::system_error& e) {
        throw left_out{e.what()};
    }
}

/// READs at random offsets. With `written`, only blocks that were written.
template <class Backend>
figures read(std::uint64_t bytes, const effort& e, bool written)
{
    running<Backend> server;
    const auto backend = server.exports().add("disk", disk<Backend>(bytes));
    numbers random;
    std::vector<std::uint64_t> offsets(1024);
    const std::vector<std::byte> data(block, std::byte{0xa5});
    for (auto& offset : offsets) {
        offset = random.below(bytes / block) * block;
        if (written && backend->write(offset, data))
            throw std::runtime_error{"a write failed"};
    }
    auto socket = server.connect();
    static_cast<void>(open_export(socket, "disk"));
    buffered in{socket};
    std::size_t next = 0;
    std::vector<std::byte> requests;
    return server_cost(e, together, [&] {
        requests.clear();
        for (std::size_t i = 0; i < together; ++i)
            append_request(requests,
                           {.command = wire::command::read,
                            .offset = offsets[next++ % offsets.size()],
                            .length = block});
        exchange_simple(in, requests, together, block);
    });
}
template <class Backend, bool Written = false>
figures read_blocks(std::uint64_t bytes, const effort& e)
{
    return read<Backend>(bytes, e, Written);
}

/// BLOCK_STATUS of the whole export, which is one hole.
template <class Backend>
figures status(std::uint64_t bytes, const effort& e)
{
    constexpr auto style = wire::reply_style::extended;
    running<Backend> server;
    server.exports().add("disk", disk<Backend>(bytes));
    auto socket = server.connect();
    open_with_chunks(socket, "disk", style);
    buffered in{socket};
    std::vector<std::byte> requests;
    for (std::size_t i = 0; i < together; ++i)
        append_request(requests,
                       {.command = wire::command::block_status, .length = bytes, .extended = true});
    return server_cost(e, together, [&] {
        socket.send(requests);
        for (std::size_t i = 0; i < together; ++i)
            receive_chunks(in, style, [&](wire::chunk, std::span<const std::byte> payload) {
                wire::reader reply{payload};
                static_cast<void>(reply.take<std::uint32_t>());
                const auto descriptors = reply.take<std::uint32_t>();
                if (descriptors != 1 || reply.take<std::uint64_t>() != bytes)
                    throw std::runtime_error{"BLOCK_STATUS does not report one hole"};
            });
    });
}

}  // namespace

void add_sizes(std::vector<curve>& to)
{
    constexpr std::uint64_t gib = std::uint64_t{1} << 30;
    constexpr std::uint64_t most = std::numeric_limits<std::int64_t>::max();
    const std::vector<std::uint64_t> null{gib, gib << 10, gib << 20, gib << 30, most};
    const std::vector<std::uint64_t> mem{gib,       gib << 3,  gib << 6,  gib << 7,
                                         gib << 10, gib << 15, gib << 16, gib << 17};
    const std::string reads = "4 KiB READ, CPU";
    const std::string whole = "BLOCK_STATUS of a whole empty export, CPU";
    to.push_back({"size/read-null", reads, "null_backend", "bytes", "µs", null,
                  read_blocks<nbd::null_backend>});
    to.push_back({"size/read-mem", reads, "mem_backend, written blocks", "bytes", "µs", mem,
                  read_blocks<nbd::mem_backend, true>});
    to.push_back({"size/read-mem-hole", reads, "mem_backend, holes", "bytes", "µs", mem,
                  read_blocks<nbd::mem_backend>});
    to.push_back({"size/status-null", whole, "null_backend", "bytes", "µs", null,
                  status<nbd::null_backend>});
    to.push_back(
        {"size/status-mem", whole, "mem_backend", "bytes", "µs", mem, status<nbd::mem_backend>});
}

}  // namespace bench::growth
