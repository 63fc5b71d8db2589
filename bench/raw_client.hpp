// SPDX-License-Identifier: MIT
#pragma once

#include "raw_socket.hpp"
#include <nbd/protocol/constants.hpp>
#include <nbd/protocol/reply.hpp>
#include <nbd/protocol/request.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <vector>

/// The client of the session benchmarks: one blocking thread, one send for a batch of requests, and
/// large receives for the replies, so that the benchmark measures mostly the server.
namespace bench {

/// Sends batches of `depth` READs or WRITEs of one size, over the whole disk, repeatedly.
class batch {
public:
    batch(raw_socket& socket, std::uint64_t disk, nbd::protocol::command command, std::size_t block,
          std::size_t depth)
        : socket_{socket}, disk_{disk}, command_{command}, block_{block}, depth_{depth},
          stride_{request_bytes + (command == nbd::protocol::command::write ? block : 0)},
          requests_(depth * stride_, std::byte{0x5a}), received_(receive_bytes)
    {
        if (disk < block)
            throw std::invalid_argument{"the disk is smaller than a block"};
    }

    /// Sends a batch and returns when its last reply has been received.
    void exchange()
    {
        for (std::size_t i = 0; i < depth_; ++i)
            encode(i);
        socket_.send(requests_);
        receive_replies();
    }

private:
    static constexpr auto request_bytes = nbd::protocol::request_bytes;
    static constexpr auto reply_bytes = nbd::protocol::simple_reply_bytes;
    /// Large enough for few system calls, small enough for the processor's cache.
    static constexpr std::size_t receive_bytes = std::size_t{256} << 10;

    void encode(std::size_t i)
    {
        nbd::protocol::encode_request(
            std::span{requests_}.subspan(i * stride_).first<request_bytes>(),
            {.flags = 0, .command = command_, .cookie = i, .offset = offset_, .length = block_});
        offset_ += block_;
        if (offset_ > disk_ - block_)
            offset_ = 0;
    }

    void receive_replies()
    {
        std::size_t have = 0;  // bytes received and not yet parsed
        std::size_t data = 0;  // bytes of the current reply's data that are still to come
        for (std::size_t replies = 0; replies < depth_ || data != 0;) {
            have += socket_.receive_some(std::span{received_}.subspan(have));
            auto rest = std::span<const std::byte>{received_}.first(have);
            for (;;) {
                const auto skipped = std::min(data, rest.size());
                data -= skipped;
                rest = rest.subspan(skipped);
                if (data != 0 || rest.size() < reply_bytes)
                    break;
                const auto reply = nbd::protocol::decode_simple_reply(rest.first<reply_bytes>());
                if (!reply || reply->error != nbd::protocol::error_value::none
                    || reply->cookie >= depth_)
                    throw std::runtime_error{"a reply is an error or invalid"};
                ++replies;
                rest = rest.subspan(reply_bytes);
                data = command_ == nbd::protocol::command::read ? block_ : 0;
            }
            have = rest.size();
            std::memmove(received_.data(), rest.data(), have);
        }
    }

    raw_socket& socket_;
    std::uint64_t disk_;
    nbd::protocol::command command_;
    std::size_t block_;
    std::size_t depth_;
    std::size_t stride_;
    std::uint64_t offset_ = 0;
    std::vector<std::byte> requests_;
    std::vector<std::byte> received_;
};

}  // namespace bench
