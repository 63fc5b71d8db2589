// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/request.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <system_error>

namespace nbd {

/// One request, handed whole to a backend that has `handle(call&)`, and the way to answer it.
///
/// The request was admitted: its range, flags and command are ones that the export offers.
/// An answer is `reply()`, or for a READ one or more `send(...)`, or `fail(error)`. Data are
/// collected until the handler returns, so a `fail` after half of them is still a clean error on the
/// wire. A handler that returns without an answer, or with fewer data than a READ asked for, has
/// failed with EIO.
/// Lifetime: until the handler returns, or completes where it is awaited. Thread safety: for the thread of the handler.
class call {
public:
    call(const protocol::request& r, std::span<const std::byte> payload,
         std::span<std::byte> data) noexcept
        : request_{r}, payload_{payload}, data_{data}
    {
    }
    call(const call&) = delete;
    call& operator=(const call&) = delete;

    [[nodiscard]] protocol::command command() const noexcept { return request_.command; }
    /// The command flags as they came, protocol::command_flag bits.
    [[nodiscard]] std::uint16_t flags() const noexcept { return request_.flags; }
    /// True where what this call writes must be on stable storage when it returns.
    [[nodiscard]] bool fua() const noexcept { return request_.has(protocol::command_flag::fua); }
    [[nodiscard]] std::uint64_t cookie() const noexcept { return request_.cookie; }
    [[nodiscard]] std::uint64_t offset() const noexcept { return request_.offset; }  ///< bytes
    [[nodiscard]] std::uint64_t length() const noexcept { return request_.length; }  ///< bytes
    /// What a WRITE carries; empty for any other command.
    [[nodiscard]] std::span<const std::byte> payload() const noexcept { return payload_; }

    /// Starts a reply of success. A READ still has to `send` its data.
    void reply() noexcept { started_ = true; }

    /// Streams the next data of a READ, and starts the reply if need be.
    /// More than the request asked for is an error of the handler: the reply becomes EIO.
    void send(std::span<const std::byte> next) noexcept
    {
        const auto to = space();
        if (next.size() > to.size()) {
            fail(std::make_error_code(std::errc::io_error));
            return;
        }
        std::copy(next.begin(), next.end(), to.begin());
        sent(next.size());
    }

    /// What a READ still has to fill, for a handler that writes in place; then `sent(n)`.
    [[nodiscard]] std::span<std::byte> space() const noexcept { return data_.subspan(filled_); }
    void sent(std::size_t n) noexcept
    {
        started_ = true;
        filled_ += std::min(n, data_.size() - filled_);
    }

    /// Answers with an error; it stands, whatever is said before or after.
    void fail(std::error_code why) noexcept
    {
        if (!error_)
            error_ = why;
    }

    /// What the handler has said in all.
    [[nodiscard]] std::error_code result() const noexcept
    {
        if (error_)
            return error_;
        if (!started_ || filled_ != data_.size())
            return std::make_error_code(std::errc::io_error);
        return {};
    }

private:
    const protocol::request& request_;
    std::span<const std::byte> payload_;
    std::span<std::byte> data_;
    std::size_t filled_ = 0;
    std::error_code error_;
    bool started_ = false;
};

}  // namespace nbd
