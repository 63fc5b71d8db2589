// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/option.hpp>
#include <nbd/protocol/reply.hpp>
#include <nbd/protocol/request.hpp>
#include <nbd/protocol/terms.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>
#include <unistd.h>

namespace grid {

using bytes = std::vector<std::byte>;
namespace proto = nbd::protocol;

struct option_answer {
    proto::option option{};
    proto::option_reply type{};
    bytes data;
};

/// An NBD client over a raw socket, which sends exactly what a test passes to it. Every wait is
/// limited, so that a server that hangs fails a test instead of stopping it.
class raw_client {
public:
    /// A send or receive that takes longer fails with EAGAIN.
    static inline int patience_in_seconds = 20;

    /// Connects; an endpoint of Asio's.
    template <class Endpoint>
    explicit raw_client(const Endpoint& to) : fd_{::socket(to.protocol().family(), SOCK_STREAM, 0)}
    {
        const ::timeval patience{.tv_sec = patience_in_seconds, .tv_usec = 0};
        ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        ::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
        if (::connect(fd_, static_cast<const ::sockaddr*>(to.data()),
                      static_cast<::socklen_t>(to.size()))
            != 0) {
            const int error = errno;
            close();
            throw std::system_error{error, std::system_category(), "connect"};
        }
    }
    /// A connected socket.
    explicit raw_client(int fd) noexcept : fd_{fd} {}
    raw_client(raw_client&& other) noexcept : fd_{std::exchange(other.fd_, -1)} {}
    raw_client& operator=(raw_client&&) = delete;
    virtual ~raw_client() { close(); }

    [[nodiscard]] int fd() const noexcept { return fd_; }
    void close() noexcept
    {
        if (fd_ >= 0)
            ::close(std::exchange(fd_, -1));
    }
    /// Closes with a reset instead of an end of stream (TCP).
    void reset() noexcept
    {
        const ::linger now{.l_onoff = 1, .l_linger = 0};
        ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
        close();
    }

    // --- bytes ----------------------------------------------------------------------------------

    void send(std::span<const std::byte> all)
    {
        while (!all.empty()) {
            const auto n = put(all);
            if (n <= 0)
                throw std::system_error{errno, std::system_category(), "send"};
            all = all.subspan(static_cast<std::size_t>(n));
        }
    }
    void receive(std::span<std::byte> all)
    {
        while (!all.empty()) {
            const auto n = take(all);
            if (n < 0)
                throw std::system_error{errno, std::system_category(), "receive"};
            if (n == 0)
                throw std::runtime_error{"the server closed the connection"};
            all = all.subspan(static_cast<std::size_t>(n));
        }
    }
    [[nodiscard]] bytes receive(std::size_t n)
    {
        bytes all(n);
        receive(std::span{all});
        return all;
    }
    /// Whether the server closes the connection, after at most `n` more bytes.
    [[nodiscard]] bool closed(std::size_t n = 1 << 20)
    {
        bytes rest(std::min(n, std::size_t{64} << 10));
        for (std::size_t got = 0; got < n;) {
            const auto more = take(rest);
            if (more == 0 || (more < 0 && (errno == ECONNRESET || errno == EPIPE)))
                return true;
            if (more < 0)
                return false;
            got += static_cast<std::size_t>(more);
        }
        return false;
    }

    // --- handshake ------------------------------------------------------------------------------

    void greet(std::uint32_t client_flags = 3)
    {
        const auto greeting = receive(proto::greeting_bytes);
        if (proto::load<std::uint64_t>(greeting) != proto::init_magic)
            throw std::runtime_error{"this is not an NBD server"};
        bytes flags(4);
        proto::store(std::span{flags}, client_flags);
        send(flags);
    }
    void send_option(proto::option o, std::span<const std::byte> data = {})
    {
        bytes message(proto::option_header_bytes);
        proto::writer{message}
            .put(proto::option_magic)
            .put(o)
            .put(static_cast<std::uint32_t>(data.size()));
        message.insert(message.end(), data.begin(), data.end());
        send(message);
    }
    [[nodiscard]] option_answer receive_answer()
    {
        const auto header = receive(proto::option_reply_header_bytes);
        proto::reader in{header};
        if (in.take<std::uint64_t>() != proto::option_reply_magic)
            throw std::runtime_error{"this is not an option reply"};
        option_answer a;
        a.option = static_cast<proto::option>(in.take<std::uint32_t>());
        a.type = static_cast<proto::option_reply>(in.take<std::uint32_t>());
        a.data = receive(in.take<std::uint32_t>());
        return a;
    }
    /// Sends an option; returns all its replies, up to ACK or the error.
    [[nodiscard]] std::vector<option_answer> ask(proto::option o,
                                                 std::span<const std::byte> data = {})
    {
        send_option(o, data);
        std::vector<option_answer> all;
        do {
            all.push_back(receive_answer());
        } while (all.back().type != proto::option_reply::ack
                 && static_cast<std::uint32_t>(all.back().type) < 0x80000000U);
        return all;
    }
    /// The data of INFO and GO.
    [[nodiscard]] static bytes info_data(std::string_view name,
                                         std::initializer_list<std::uint16_t> types = {})
    {
        bytes data(4 + name.size() + 2 + 2 * types.size());
        proto::writer to{data};
        to.put(static_cast<std::uint32_t>(name.size()))
            .put_text(name)
            .put(static_cast<std::uint16_t>(types.size()));
        for (const auto type : types)
            to.put(type);
        return data;
    }
    /// The whole handshake, up to transmission; returns the size and flags of INFO_EXPORT.
    proto::export_terms go(std::string_view name)
    {
        greet();
        const auto answers = ask(proto::option::go, info_data(name));
        if (answers.back().type != proto::option_reply::ack)
            throw std::runtime_error{"the export was refused"};
        for (const auto& a : answers) {
            proto::reader in{a.data};
            if (a.type == proto::option_reply::info && in.take<std::uint16_t>() == 0) {
                const auto size = in.take<std::uint64_t>();
                return {.size = size, .flags = in.take<std::uint16_t>(), .blocks = {}};
            }
        }
        throw std::runtime_error{"no INFO_EXPORT"};
    }

    // --- transmission ---------------------------------------------------------------------------

    static void append(bytes& to, const proto::request& r, std::span<const std::byte> payload = {})
    {
        const auto at = to.size();
        to.resize(at + proto::request_bytes);
        proto::encode_request(std::span{to}.subspan(at).first<proto::request_bytes>(), r);
        to.insert(to.end(), payload.begin(), payload.end());
    }
    void send_request(const proto::request& r, std::span<const std::byte> payload = {})
    {
        bytes message;
        append(message, r, payload);
        send(message);
    }
    [[nodiscard]] proto::simple_reply receive_reply()
    {
        const auto message = receive(proto::simple_reply_bytes);
        const auto reply =
            proto::decode_simple_reply(std::span{message}.first<proto::simple_reply_bytes>());
        if (!reply)
            throw std::runtime_error{"this is not a simple reply"};
        return *reply;
    }
    /// A request whose reply has no data; returns the error value of the reply.
    [[nodiscard]] proto::error_value request(proto::command c, std::uint64_t offset,
                                             std::uint64_t length, std::uint16_t flags = 0,
                                             std::span<const std::byte> payload = {})
    {
        const auto cookie = ++cookie_;
        send_request(
            {.flags = flags, .command = c, .cookie = cookie, .offset = offset, .length = length},
            payload);
        const auto reply = receive_reply();
        if (reply.cookie != cookie)
            throw std::runtime_error{"a reply with another cookie"};
        return reply.error;
    }
    [[nodiscard]] proto::error_value write(std::uint64_t offset, std::span<const std::byte> data,
                                           std::uint16_t flags = 0)
    {
        return request(proto::command::write, offset, data.size(), flags, data);
    }
    /// A READ; returns nothing if the reply is an error.
    [[nodiscard]] std::optional<bytes> read(std::uint64_t offset, std::uint64_t length)
    {
        if (request(proto::command::read, offset, length) != proto::error_value::none)
            return std::nullopt;
        return receive(static_cast<std::size_t>(length));
    }
    void disconnect() { send_request({.command = proto::command::disc}); }

protected:
    /// As send(2) and recv(2). A layer such as TLS overrides them.
    virtual ::ssize_t put(std::span<const std::byte> some)
    {
        return ::send(fd_, some.data(), some.size(), MSG_NOSIGNAL);
    }
    virtual ::ssize_t take(std::span<std::byte> room)
    {
        return ::recv(fd_, room.data(), room.size(), 0);
    }

private:
    int fd_;
    std::uint64_t cookie_ = 0;
};

/// Bytes that differ from offset to offset, to compare with a shadow copy.
[[nodiscard]] inline bytes pattern(std::size_t n, unsigned seed = 1)
{
    bytes all(n);
    std::uint32_t x = seed * 2654435761U + 1;
    for (auto& b : all) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        b = static_cast<std::byte>(x);
    }
    return all;
}

}  // namespace grid
