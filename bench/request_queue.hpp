// SPDX-License-Identifier: MIT
#pragma once

#include "raw_socket.hpp"
#include <nbd/protocol/constants.hpp>
#include <nbd/protocol/request.hpp>

#include <cassert>
#include <cstddef>
#include <span>
#include <vector>

#include <sys/uio.h>

namespace bench {

/// Requests to be sent with one gathering send. Payloads are not copied.
class request_queue {
public:
    /// Holds at most `most` requests.
    explicit request_queue(std::size_t most) : headers_(most * request_bytes)
    {
        pieces_.reserve(2 * most);
    }

    [[nodiscard]] bool empty() const noexcept { return pieces_.empty(); }

    /// `payload` must stay valid and unchanged until it is sent.
    void push(const nbd::protocol::request& r, std::span<std::byte> payload)
    {
        assert(used_ + request_bytes <= headers_.size());
        const auto header = std::span{headers_}.subspan(used_).first<request_bytes>();
        used_ += request_bytes;
        nbd::protocol::encode_request(header, r);
        if (!pieces_.empty() && end_of(pieces_.back()) == header.data())
            pieces_.back().iov_len += header.size();
        else
            pieces_.push_back({header.data(), header.size()});
        if (!payload.empty())
            pieces_.push_back({payload.data(), payload.size()});
    }

    /// Sends without waiting. True if nothing is left; false if the socket is full.
    /// Errors: those of the socket.
    [[nodiscard]] bool send(raw_socket& socket)
    {
        for (auto rest = std::span{pieces_}.subspan(sent_); !rest.empty();) {
            auto n = socket.send_some(rest, patience::at_once);
            if (n == 0)
                return false;
            for (; !rest.empty() && n >= rest.front().iov_len; ++sent_) {
                n -= rest.front().iov_len;
                rest = rest.subspan(1);
            }
            if (n != 0) {
                rest.front().iov_base = static_cast<std::byte*>(rest.front().iov_base) + n;
                rest.front().iov_len -= n;
            }
        }
        pieces_.clear();
        sent_ = 0;
        used_ = 0;
        return true;
    }

private:
    static constexpr auto request_bytes = nbd::protocol::request_bytes;

    [[nodiscard]] static const void* end_of(const ::iovec& piece) noexcept
    {
        return static_cast<const std::byte*>(piece.iov_base) + piece.iov_len;
    }

    std::vector<std::byte> headers_;
    std::size_t used_ = 0;  // bytes of them
    std::vector<::iovec> pieces_;
    std::size_t sent_ = 0;  // of the pieces
};

}  // namespace bench
