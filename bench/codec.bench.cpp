// SPDX-License-Identifier: MIT
// Code without a socket: encoding and decoding, admission of requests, the handshake.
#include <nbd/handshake/negotiator.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/protocol/reply.hpp>
#include <nbd/protocol/request.hpp>
#include <nbd/transmission/admission.hpp>

#include <benchmark/benchmark.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace {

namespace wire = nbd::protocol;
namespace tf = nbd::protocol::transmission_flag;

constexpr wire::export_terms terms{
    .size = std::uint64_t{1} << 30,
    .flags = tf::has_flags | tf::send_flush | tf::send_fua | tf::send_trim | tf::send_write_zeroes
        | tf::send_cache,
    .blocks = {.minimum = 512, .preferred = 4096, .maximum = wire::default_maximum_payload}};

/// 64 requests, as of a client at depth 64. Valid and invalid ones are mixed, so that branches are
/// not always predicted.
std::vector<wire::request> mixed_requests()
{
    constexpr std::array commands{wire::command::read,         wire::command::write,
                                  wire::command::read,         wire::command::trim,
                                  wire::command::write_zeroes, wire::command::read,
                                  wire::command::write,        wire::command::block_status};
    std::vector<wire::request> requests;
    for (std::uint64_t i = 0; i < 64; ++i)
        requests.push_back({.flags = i % 5 == 0 ? wire::command_flag::fua : std::uint16_t{0},
                            .command = commands[i * 7 % commands.size()],
                            .cookie = i,
                            .offset = i * 4096 + (i % 11 == 0 ? 1 : 0),
                            .length = i % 13 == 0 ? terms.size : 4096});
    return requests;
}

std::int64_t count(const benchmark::State& state, std::size_t per_iteration)
{
    return static_cast<std::int64_t>(state.iterations()) * static_cast<std::int64_t>(per_iteration);
}

void decode_request(benchmark::State& state)
{
    const auto requests = mixed_requests();
    std::vector<std::byte> bytes(requests.size() * wire::request_bytes);
    for (std::size_t i = 0; i < requests.size(); ++i)
        wire::encode_request(
            std::span{bytes}.subspan(i * wire::request_bytes).first<wire::request_bytes>(),
            requests[i]);
    for (auto _ : state) {
        auto rest = std::span<const std::byte>{bytes};
        while (!rest.empty()) {
            auto decoded = wire::decode_request(rest.first<wire::request_bytes>());
            benchmark::DoNotOptimize(decoded);
            rest = rest.subspan(wire::request_bytes);
        }
    }
    state.SetItemsProcessed(count(state, requests.size()));
    state.SetBytesProcessed(count(state, bytes.size()));
}
BENCHMARK(decode_request)->Name("codec/decode_request");

void encode_reply(benchmark::State& state)
{
    constexpr std::size_t replies = 64;
    std::array<std::byte, replies * wire::simple_reply_bytes> bytes{};
    for (auto _ : state) {
        for (std::uint64_t i = 0; i < replies; ++i)
            wire::encode_reply(std::span{bytes}
                                   .subspan(i * wire::simple_reply_bytes)
                                   .first<wire::simple_reply_bytes>(),
                               {.error = wire::error_value::none, .cookie = i});
        benchmark::DoNotOptimize(bytes.data());
        benchmark::ClobberMemory();
    }
    state.SetItemsProcessed(count(state, replies));
    state.SetBytesProcessed(count(state, bytes.size()));
}
BENCHMARK(encode_reply)->Name("codec/encode_reply");

/// The data of INFO and GO as libnbd sends them: a name and three information requests.
std::vector<std::byte> info_data(std::string_view name)
{
    std::vector<std::byte> data(4 + name.size() + 2 + 3 * 2);
    wire::writer{data}
        .put(static_cast<std::uint32_t>(name.size()))
        .put_text(name)
        .put(std::uint16_t{3})
        .put(wire::info::name)
        .put(wire::info::description)
        .put(wire::info::block_size);
    return data;
}

void decode_info_request(benchmark::State& state)
{
    const auto data = info_data("a disk of usual name");
    for (auto _ : state) {
        auto decoded = wire::decode_info_request(data);
        benchmark::DoNotOptimize(decoded);
        auto wanted = decoded && decoded->wants(wire::info::block_size);
        benchmark::DoNotOptimize(wanted);
    }
    state.SetItemsProcessed(count(state, 1));
    state.SetBytesProcessed(count(state, data.size()));
}
BENCHMARK(decode_info_request)->Name("codec/decode_info_request");

void valid_string(benchmark::State& state)
{
    const std::string_view name = "a disk of usual name";
    for (auto _ : state) {
        auto text = name;
        benchmark::DoNotOptimize(text);
        auto valid = wire::valid_string(text);
        benchmark::DoNotOptimize(valid);
    }
    state.SetItemsProcessed(count(state, 1));
    state.SetBytesProcessed(count(state, name.size()));
}
BENCHMARK(valid_string)->Name("codec/valid_string");

void admit(benchmark::State& state)
{
    const auto requests = mixed_requests();
    auto t = terms;
    benchmark::DoNotOptimize(t);
    for (auto _ : state)
        for (const auto& r : requests) {
            auto action = nbd::transmission::admit(r, t);
            benchmark::DoNotOptimize(action);
        }
    state.SetItemsProcessed(count(state, requests.size()));
}
BENCHMARK(admit)->Name("admission/mixed");

/// A handshake from the greeting to the transmission phase, without a socket.
void negotiate(benchmark::State& state)
{
    using nbd::handshake::action;
    const nbd::settings limits;
    const nbd::handshake::export_info disk{.name = "test", .description = "a disk", .terms = terms};
    const auto info = info_data(disk.name);
    std::vector<std::byte> sent(wire::client_flags_bytes + wire::option_header_bytes);
    wire::writer{sent}
        .put(wire::client_flag::fixed_newstyle | wire::client_flag::no_zeroes)
        .put(wire::option_magic)
        .put(wire::option::go)
        .put(static_cast<std::uint32_t>(info.size()));
    sent.insert(sent.end(), info.begin(), info.end());

    for (auto _ : state) {
        nbd::handshake::negotiator negotiator{limits};
        auto rest = std::span<const std::byte>{sent};
        auto v = action::receive;
        while (v == action::receive && negotiator.bytes_needed() <= rest.size()) {
            benchmark::DoNotOptimize(negotiator.reply().data());
            negotiator.reply().clear();
            const auto bytes = rest.first(negotiator.bytes_needed());
            rest = rest.subspan(bytes.size());
            v = negotiator.process(bytes);
            if (v == action::open_export)
                v = negotiator.export_opened(disk);
        }
        benchmark::DoNotOptimize(negotiator.reply().data());
        if (v != action::transmit) {
            state.SkipWithError("the handshake does not end in the transmission phase");
            break;
        }
    }
    state.SetItemsProcessed(count(state, 1));
}
BENCHMARK(negotiate)->Name("negotiator/go");

}  // namespace
