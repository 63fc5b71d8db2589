// SPDX-License-Identifier: MIT
#pragma once

#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/constants.hpp>
#include <nbd/protocol/reply.hpp>
#include <nbd/protocol/request.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <system_error>
#include <vector>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/// The client's side of the session benchmarks: one thread that blocks, one send for a batch of
/// requests, large receives for their replies, so that what is measured is mostly the server.
namespace bench {

/// A connected socket. Errors: std::system_error, and std::runtime_error where the peer hangs up.
class raw_socket {
public:
    /// `to` is an Asio endpoint, of any protocol.
    template <class Endpoint>
    explicit raw_socket(const Endpoint& to)
        : fd_{::socket(to.protocol().family(), SOCK_STREAM | SOCK_CLOEXEC, 0)}
    {
        check(fd_, "socket");
        try {
            // Nothing waits for ever: a benchmark that hangs is an error, not a long one.
            const ::timeval patience{.tv_sec = 20, .tv_usec = 0};
            set(SOL_SOCKET, SO_RCVTIMEO, patience);
            set(SOL_SOCKET, SO_SNDTIMEO, patience);
            if (to.protocol().family() == AF_UNIX)
                set(SOL_SOCKET, SO_SNDBUF, 2 << 20);
            else
                set(IPPROTO_TCP, TCP_NODELAY, 1);
            check(::connect(fd_, static_cast<const ::sockaddr*>(to.data()),
                            static_cast<::socklen_t>(to.size())),
                  "connect");
        } catch (...) {
            ::close(fd_);
            throw;
        }
    }
    raw_socket(const raw_socket&) = delete;
    raw_socket& operator=(const raw_socket&) = delete;
    ~raw_socket() { ::close(fd_); }

    void send(std::span<const std::byte> bytes)
    {
        while (!bytes.empty())
            bytes =
                bytes.subspan(check(::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL), "send"));
    }

    [[nodiscard]] std::size_t receive_some(std::span<std::byte> to)
    {
        const auto n = check(::recv(fd_, to.data(), to.size(), 0), "recv");
        if (n == 0)
            throw std::runtime_error{"the server has hung up"};
        return n;
    }

    void receive(std::span<std::byte> to)
    {
        while (!to.empty())
            to = to.subspan(receive_some(to));
    }

private:
    template <class T>
    void set(int level, int name, const T& value)
    {
        check(::setsockopt(fd_, level, name, &value, sizeof(value)), "setsockopt");
    }
    static std::size_t check(::ssize_t result, const char* call)
    {
        if (result < 0)
            throw std::system_error{errno, std::system_category(), call};
        return static_cast<std::size_t>(result);
    }

    int fd_;
};

/// The handshake: GO for the default export. Gives its size in bytes.
inline std::uint64_t open_default_export(raw_socket& socket)
{
    namespace wire = nbd::protocol;
    std::byte greeting[wire::greeting_bytes];
    socket.receive(greeting);

    constexpr std::uint32_t go_bytes = 6;  // an empty name, and no information asked for
    std::byte go[wire::client_flags_bytes + wire::option_header_bytes + go_bytes];
    wire::writer{go}
        .put(wire::client_flag::fixed_newstyle | wire::client_flag::no_zeroes)
        .put(wire::option_magic)
        .put(wire::option::go)
        .put(go_bytes)
        .put(std::uint32_t{0})
        .put(std::uint16_t{0});
    socket.send(go);

    for (std::uint64_t size = 0;;) {
        std::byte header[wire::option_reply_header_bytes];
        socket.receive(header);
        wire::reader in{std::span{header}.subspan<12>()};
        const auto type = static_cast<wire::option_reply>(in.take<std::uint32_t>());
        std::vector<std::byte> data(in.take<std::uint32_t>());
        socket.receive(data);
        if (type == wire::option_reply::ack)
            return size;
        if (type != wire::option_reply::info)
            throw std::runtime_error{"the server refuses GO"};
        wire::reader info{data};
        if (static_cast<wire::info>(info.take<std::uint16_t>()) == wire::info::export_)
            size = info.take<std::uint64_t>();
    }
}

/// `depth` requests of one kind and size, sent at once, again and again over the whole disk. For
/// READ and WRITE.
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

    /// Sends all requests, and returns when the last reply has come.
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
    /// Large for few system calls, small enough for the processor's cache.
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
        std::size_t have = 0;  // bytes received and not yet understood
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
                    throw std::runtime_error{"a reply is an error, or none at all"};
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
