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

/// One request, for a backend that has `handle(call&)`, and the means to answer it. The server has
/// checked that the export offers the command, the flags and the range.
///
/// The handler answers with `reply()`, for a READ with one or more `send(...)`, or with
/// `fail(error)`. The data are sent after the handler has returned, so that a `fail` after some of
/// them is still an error reply. A handler that returns without an answer, or with less data than a
/// READ requests, has failed with EIO.
/// *Thread safety*: one thread at a time: the one that runs the handler.
/// *Lifetime*: until the handler returns or, if it is awaited, completes.
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
    /// The command flags of the request: protocol::command_flag bits.
    [[nodiscard]] std::uint16_t flags() const noexcept { return request_.flags; }
    /// Whether what this call writes must be on stable storage when the handler returns.
    [[nodiscard]] bool fua() const noexcept { return request_.has(protocol::command_flag::fua); }
    [[nodiscard]] std::uint64_t cookie() const noexcept { return request_.cookie; }
    [[nodiscard]] std::uint64_t offset() const noexcept { return request_.offset; }  ///< bytes
    [[nodiscard]] std::uint64_t length() const noexcept { return request_.length; }  ///< bytes
    /// The payload of a WRITE; empty for any other command.
    [[nodiscard]] std::span<const std::byte> payload() const noexcept { return payload_; }

    /// Reports success. A READ must `send` its data too.
    void reply() noexcept { started_ = true; }

    /// Appends the next data of a READ, and reports success. More data than the request asked for
    /// are an error of the handler: the reply becomes EIO.
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

    /// The part of the data of a READ that is not filled yet, for a handler that writes in place.
    /// Write to its start, then call `sent` with the number of bytes.
    [[nodiscard]] std::span<std::byte> space() const noexcept { return data_.subspan(filled_); }
    void sent(std::size_t n) noexcept
    {
        started_ = true;
        filled_ += std::min(n, data_.size() - filled_);
    }

    /// Reports an error. The first error is kept, whatever is reported before or after it.
    void fail(std::error_code why) noexcept
    {
        if (!error_)
            error_ = why;
    }

    /// *Returns* the outcome of the request: the first error; EIO for an answer that is missing or
    /// incomplete; otherwise success.
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
