// SPDX-License-Identifier: MIT
// nbd-limit: a server that is only a loop of recv and sendmsg, to compare other servers with. It
// has a thread for each client, one block of memory, and just enough NBD for a load: fixed
// newstyle, EXPORT_NAME and GO, READ, WRITE, FLUSH and DISC. It has no limits, no polling and no
// sendfile.
//
// As in the library, all buffered requests are answered by one send. Small data are copied behind
// their header; large data are sent from their place.
#include "server_address.hpp"
#include <nbd/protocol/bytes.hpp>
#include <nbd/protocol/constants.hpp>
#include <nbd/protocol/option.hpp>
#include <nbd/protocol/reply.hpp>
#include <nbd/protocol/request.hpp>
#include <nbd/protocol/uri.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <limits>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

namespace {

namespace wire = nbd::protocol;

int checked(int result, const char* what)
{
    if (result < 0)
        throw std::system_error{errno, std::system_category(), what};
    return result;
}

/// The client has disconnected, or has sent something invalid.
struct gone {};

class client {
public:
    client(int fd, std::span<std::byte> disk) : fd_{fd}, disk_{disk} {}
    client(const client&) = delete;
    client& operator=(const client&) = delete;
    ~client() { ::close(fd_); }

    void serve()
    try {
        negotiate();
        for (;;) {
            while (in_.size() < wire::request_bytes) {
                send();
                receive();
            }
            const auto r = wire::decode_request(in_.first<wire::request_bytes>());
            if (!r)
                return;
            in_ = in_.subspan(wire::request_bytes);
            const bool inside = r->length <= disk_.size() && r->offset <= disk_.size() - r->length;
            const bool moves =
                r->command == wire::command::read || r->command == wire::command::write;
            if (r->command == wire::command::disc || (moves && !inside))
                return;
            answer(*r,
                   moves ? disk_.subspan(static_cast<std::size_t>(r->offset),
                                         static_cast<std::size_t>(r->length))
                         : std::span<std::byte>{});
        }
    } catch (const gone&) {
    }

private:
    /// Larger data are sent from their place.
    static constexpr std::size_t copied = std::size_t{8} << 10;
    static constexpr std::size_t room = std::size_t{128} << 10;
    static constexpr std::size_t most_pieces = 64;

    void negotiate()
    {
        std::byte greeting[wire::greeting_bytes];
        wire::encode_greeting(
            greeting, wire::handshake_flag::fixed_newstyle | wire::handshake_flag::no_zeroes);
        append(greeting);
        send();
        const auto flags = wire::load<std::uint32_t>(take(wire::client_flags_bytes));
        for (;;) {
            const auto header = wire::decode_option_header(
                take(wire::option_header_bytes).first<wire::option_header_bytes>());
            if (!header || header->length > 2 * wire::max_string_bytes)
                throw gone{};
            static_cast<void>(take(header->length));
            std::byte terms[12 + wire::export_name_padding_bytes]{};
            wire::writer{terms}
                .put(wire::info::export_)
                .put(std::uint64_t{disk_.size()})
                .put(transmission_flags);
            switch (header->option) {
            case wire::option::export_name: {
                const bool no_zeroes = (flags & wire::client_flag::no_zeroes) != 0;
                append(std::span{terms}.subspan(2, no_zeroes ? 10 : sizeof(terms) - 2));
                return;
            }
            case wire::option::go:
            case wire::option::info:
                reply(header->option, wire::option_reply::info, std::span{terms}.first(12));
                reply(header->option, wire::option_reply::ack);
                if (header->option == wire::option::go)
                    return;
                break;
            case wire::option::abort:
                reply(header->option, wire::option_reply::ack);
                send();
                throw gone{};
            default:
                reply(header->option, wire::option_reply::err_unsup);
            }
            send();
        }
    }
    void reply(wire::option o, wire::option_reply type, std::span<const std::byte> data = {})
    {
        std::byte header[wire::option_reply_header_bytes];
        wire::encode_option_reply(header, o, type, static_cast<std::uint32_t>(data.size()));
        append(header);
        append(data);
    }
    /// The next `n` bytes from the client. Sends the pending replies before it waits.
    std::span<const std::byte> take(std::size_t n)
    {
        while (in_.size() < n)
            receive();
        const auto taken = in_.first(n);
        in_ = in_.subspan(n);
        return taken;
    }

    void answer(const wire::request& r, std::span<std::byte> data)
    {
        if (r.command == wire::command::write)
            take_payload(data);
        const bool read = r.command == wire::command::read;
        const bool lent = read && data.size() > copied;
        const auto own = wire::simple_reply_bytes + (read && !lent ? data.size() : 0);
        if (own > out_room_.size() - out_ || pieces_ + 3 > most_pieces)
            send();
        std::byte header[wire::simple_reply_bytes];
        const bool known =
            read || r.command == wire::command::write || r.command == wire::command::flush;
        wire::encode_reply(header,
                           {.error = known ? wire::error_value::none : wire::error_value::einval,
                            .cookie = r.cookie});
        append(header);
        if (lent)
            iov_[pieces_++] = {data.data(), data.size()};
        else if (read)
            append(data);
    }
    /// Copies what is buffered and receives the rest in place.
    void take_payload(std::span<std::byte> to)
    {
        const auto n = std::min(to.size(), in_.size());
        std::memcpy(to.data(), in_.data(), n);
        in_ = in_.subspan(n);
        for (to = to.subspan(n); !to.empty();)
            to = to.subspan(received(::recv(fd_, to.data(), to.size(), MSG_WAITALL)));
    }

    void append(std::span<const std::byte> bytes)
    {
        const auto to = std::span{out_room_}.subspan(out_, bytes.size());
        if (!bytes.empty())
            std::memcpy(to.data(), bytes.data(), bytes.size());
        out_ += bytes.size();
        auto& last = iov_[pieces_ == 0 ? 0 : pieces_ - 1];
        if (pieces_ != 0 && static_cast<std::byte*>(last.iov_base) + last.iov_len == to.data())
            last.iov_len += to.size();
        else
            iov_[pieces_++] = {to.data(), to.size()};
    }
    void send()
    {
        for (std::span<::iovec> rest{iov_.data(), pieces_}; !rest.empty();) {
            ::msghdr message{};
            message.msg_iov = rest.data();
            message.msg_iovlen = rest.size();
            for (auto n = received(::sendmsg(fd_, &message, MSG_NOSIGNAL)); n != 0;) {
                auto& piece = rest.front();
                const auto part = std::min(n, piece.iov_len);
                piece = {static_cast<std::byte*>(piece.iov_base) + part, piece.iov_len - part};
                n -= part;
                if (piece.iov_len == 0)
                    rest = rest.subspan(1);
            }
        }
        pieces_ = 0;
        out_ = 0;
    }
    void receive()
    {
        std::memmove(in_room_.data(), in_.data(), in_.size());
        const auto space = std::span{in_room_}.subspan(in_.size());
        const auto n = received(::recv(fd_, space.data(), space.size(), 0));
        in_ = std::span{in_room_}.first(in_.size() + n);
    }
    static std::size_t received(::ssize_t n)
    {
        if (n <= 0)
            throw gone{};
        return static_cast<std::size_t>(n);
    }

    static constexpr std::uint16_t transmission_flags = wire::transmission_flag::has_flags
        | wire::transmission_flag::send_flush | wire::transmission_flag::can_multi_conn;

    int fd_;
    std::span<std::byte> disk_;
    std::vector<std::byte> in_room_ = std::vector<std::byte>(room);
    std::span<const std::byte> in_;  // its received and unread part
    std::vector<std::byte> out_room_ = std::vector<std::byte>(room);
    std::size_t out_ = 0;  // bytes in use
    std::array<::iovec, most_pieces> iov_{};
    std::size_t pieces_ = 0;
};

std::span<std::byte> make_disk(std::size_t size)
{
    const int file = checked(::memfd_create("nbd-limit", MFD_CLOEXEC), "memfd_create");
    checked(::ftruncate(file, static_cast<::off_t>(size)), "ftruncate");
    void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED)
        throw std::system_error{errno, std::system_category(), "mmap"};
    return {static_cast<std::byte*>(memory), size};
}

int listen_at(const bench::server_address& at)
{
    const int fd = checked(::socket(at.data()->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    const int yes = 1;
    checked(::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)), "setsockopt");
    checked(::bind(fd, at.data(), at.size()), "bind");
    checked(::listen(fd, SOMAXCONN), "listen");
    return fd;
}

[[noreturn]] void accept_clients(int listener, bool local, std::span<std::byte> disk)
{
    for (;;) {
        const int fd = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
        if (fd < 0)
            continue;
        const int value = local ? 2 << 20 : 1;
        ::setsockopt(fd, local ? SOL_SOCKET : IPPROTO_TCP, local ? SO_SNDBUF : TCP_NODELAY, &value,
                     sizeof(value));
        std::thread{[fd, disk] { std::make_unique<client>(fd, disk)->serve(); }}.detach();
    }
}

/// The URI with the port that the system chose.
std::string tcp_uri_of(int listener)
{
    ::sockaddr_in at{};
    ::socklen_t length = sizeof(at);
    checked(::getsockname(listener, reinterpret_cast<::sockaddr*>(&at), &length), "getsockname");
    return wire::tcp_uri("127.0.0.1:" + std::to_string(ntohs(at.sin_port)), "");
}

void serve(std::uint64_t size, const std::string& path)
{
    // Before the second thread starts: only sigwait gets the signals.
    ::sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);

    const auto disk = make_disk(static_cast<std::size_t>(size));
    const bool local = !path.empty();
    const int listener =
        listen_at(local ? bench::unix_address(path) : bench::tcp_address("127.0.0.1:0"));
    std::thread{accept_clients, listener, local, disk}.detach();
    std::cout << "serving " << (local ? wire::unix_uri(path, "") : tcp_uri_of(listener))
              << std::endl;
    int which = 0;
    ::sigwait(&signals, &which);
    if (local)
        ::unlink(path.c_str());
    std::quick_exit(0);  // closes all connections
}

}  // namespace

int main(int argc, char** argv)
{
    std::uint64_t size = 0;
    std::string path;
    CLI::App app{"Serves a disk in memory with a plain loop of recv and sendmsg.", "nbd-limit"};
    app.add_option("SIZE", size, "size of the disk in bytes, or with K, M, G or T")
        ->required()
        ->transform(CLI::AsSizeValue(false))
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 46));
    app.add_option("--unix", path, "listen on this UNIX socket; default: a TCP port of 127.0.0.1")
        ->type_name("PATH");
    try {
        app.parse(argc, argv);
        serve(size, path);
        return 0;
    } catch (const CLI::Success& e) {
        return app.exit(e);
    } catch (const CLI::ParseError& e) {
        std::cerr << "nbd-limit: " << e.what() << '\n';
        return 2;
    } catch (const std::exception& e) {
        std::cerr << "nbd-limit: " << e.what() << '\n';
        return 1;
    }
}
