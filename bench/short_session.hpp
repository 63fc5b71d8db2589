// SPDX-License-Identifier: MIT
#pragma once

#include "raw_socket.hpp"
#include "server_address.hpp"
#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/constants.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/protocol/reply.hpp>
#include <nbd/protocol/request.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace bench {

/// A connection for one READ: connect, fixed newstyle handshake with GO, READ, DISC. The client
/// flags and GO are one message. It can be opened again. Errors, of all members: those of the
/// socket, and std::runtime_error for an invalid answer or an error value.
class short_session {
public:
    /// `to` outlives this object. A READ has `block` bytes.
    short_session(const export_address& to, std::size_t block)
        : to_{to}, room_(std::max(block + nbd::protocol::simple_reply_bytes, least_room)),
          block_{block}
    {
    }

    [[nodiscard]] int native_handle() const noexcept { return socket_->native_handle(); }
    /// When `open` was called, as the caller said.
    [[nodiscard]] std::uint64_t opened() const noexcept { return opened_; }

    /// Connects; waits until the server's queue has a place. The READ will be at `offset`.
    void open(std::uint64_t time, std::uint64_t offset)
    {
        opened_ = time;
        offset_ = offset;
        have_ = 0;
        expected_ = expected::greeting;
        socket_.emplace(to_.server.data(), to_.server.size());
    }

    /// Receives once and sends what follows. Returns whether the READ is answered.
    [[nodiscard]] bool receive(patience p)
    {
        have_ += socket_->receive_some(std::span{room_}.subspan(have_), p);
        while (const auto taken = take()) {
            have_ -= taken;
            std::memmove(room_.data(), room_.data() + taken, have_);
        }
        if (have_ == room_.size())
            fail("the server sent an invalid reply to an option");
        return expected_ == expected::nothing;
    }

    /// Says goodbye.
    void disconnect() { send_request(nbd::protocol::command::disc, 0, 0); }
    /// Waits until the server has closed the connection, after `disconnect`.
    void wait_for_end()
    {
        if (!socket_->ends())
            fail("the server sends after DISC");
    }
    void close() noexcept { socket_.reset(); }

private:
    enum class expected { greeting, option_reply, data, nothing };

    static constexpr std::size_t least_room = 8192;  // an error text may have 4096 bytes
    static constexpr std::uint64_t cookie = 0x6e62642d6c6f6164;

    [[noreturn]] static void fail(const std::string& what) { throw std::runtime_error{what}; }

    /// Processes the next message. Returns its length; 0 if it is not complete.
    std::size_t take()
    {
        namespace wire = nbd::protocol;
        wire::reader in{std::span{room_}.first(have_)};
        switch (expected_) {
        case expected::greeting:
            if (have_ < wire::greeting_bytes)
                return 0;
            if (in.take<std::uint64_t>() != wire::init_magic
                || in.take<std::uint64_t>() != wire::option_magic)
                fail("the peer is not a newstyle NBD server");
            send_go();
            expected_ = expected::option_reply;
            return wire::greeting_bytes;
        case expected::option_reply: {
            if (have_ < wire::option_reply_header_bytes)
                return 0;
            const auto magic = in.take<std::uint64_t>();
            static_cast<void>(in.take<std::uint32_t>());
            const auto type = static_cast<wire::option_reply>(in.take<std::uint32_t>());
            const std::size_t length = in.take<std::uint32_t>();
            if (magic != wire::option_reply_magic)
                fail("the server sent an invalid reply to an option");
            if (have_ < wire::option_reply_header_bytes + length)
                return 0;
            if (type == wire::option_reply::ack) {
                send_request(wire::command::read, offset_, static_cast<std::uint32_t>(block_));
                expected_ = expected::data;
            } else if (type != wire::option_reply::info) {
                fail("the server refuses to open the export \"" + to_.name + '"');
            }
            return wire::option_reply_header_bytes + length;
        }
        case expected::data:
            if (have_ < wire::simple_reply_bytes)
                return 0;
            check_reply();
            if (have_ < wire::simple_reply_bytes + block_)
                return 0;
            expected_ = expected::nothing;
            return wire::simple_reply_bytes + block_;
        case expected::nothing:
            break;
        }
        return 0;
    }
    void check_reply() const
    {
        nbd::protocol::reader in{std::span{room_}.first(nbd::protocol::simple_reply_bytes)};
        if (in.take<std::uint32_t>() != nbd::protocol::simple_reply_magic)
            fail("the server sent an invalid reply");
        if (const auto error = in.take<std::uint32_t>(); error != 0)
            fail("READ failed with the error value " + std::to_string(error));
        if (in.take<std::uint64_t>() != cookie)
            fail("the server replied to no request");
    }

    void send_go()
    {
        namespace wire = nbd::protocol;
        const auto length = static_cast<std::uint32_t>(to_.name.size());
        std::vector<std::byte> message(wire::client_flags_bytes + wire::option_header_bytes + 4
                                       + length + 4);
        wire::writer{message}
            .put(wire::client_flag::fixed_newstyle | wire::client_flag::no_zeroes)
            .put(wire::option_magic)
            .put(wire::option::go)
            .put(4 + length + 4)
            .put(length)
            .put_text(to_.name)
            .put(std::uint16_t{1})
            .put(wire::info::block_size);
        socket_->send(message);
    }
    void send_request(nbd::protocol::command command, std::uint64_t offset, std::uint32_t length)
    {
        namespace wire = nbd::protocol;
        std::byte message[wire::request_bytes];
        wire::encode_request(
            message, {.command = command, .cookie = cookie, .offset = offset, .length = length});
        socket_->send(message);
    }

    const export_address& to_;
    std::optional<raw_socket> socket_;
    std::vector<std::byte> room_;
    std::size_t have_ = 0;  ///< bytes of `room_` that are received and not processed
    std::size_t block_;
    std::uint64_t opened_ = 0;
    std::uint64_t offset_ = 0;
    expected expected_ = expected::nothing;
};

}  // namespace bench
